import json
from datetime import timedelta

import pytest

from pipelines.audit.served import around, served_at
from pipelines.records.lookup import Lost, VersionShare


@pytest.fixture
def share(noon):
    return lambda version, arm, answers: VersionShare(version, arm, 20, answers, answers, noon, noon)


def test_answers_are_counted_on_both_sides_of_the_moment(noon):
    assert around(noon, 30) == (noon - timedelta(seconds=30), noon + timedelta(seconds=30))


def test_stable_comes_first_and_everything_is_counted(noon, share):
    state = served_at(noon, 30, [], [share(3, "canary", 20), share(2, "stable", 80)], [])
    assert [each.version for each in state.shares] == [2, 3]
    assert state.answers == 80 + 20


def test_the_json_names_both_what_was_wanted_and_what_was_done(books, noon, share, plan):
    books.ledger.open(3, previous=2, plan=plan, requested_by="test")
    release = books.ledger.begin_watch(1)
    lost = Lost("canary", noon, noon, 3)
    state = served_at(release.watch_from, 30, [release], [share(3, "canary", 20)], [lost])
    told = json.loads(json.dumps(state.as_json()))
    assert told["stable"] is None
    assert told["candidate"] == {"release": 1, "version": 3, "canary_percent": 20, "reason": None}
    assert (told["served"][0]["answers"], told["lost"][0]["count"]) == (20, 3)
    assert told["window_s"] == 30
