import json
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from pipelines.audit.explain import explain
from pipelines.audit.story import tell
from pipelines.errors import MarqueeError, NoReceipt
from pipelines.records.database import naive_utc
from pipelines.records.tables import releases
from pipelines.release.entries import State

ID = "a" * 32


@pytest.fixture
def promoted(books, noon, plan):
    """Version 2 was promoted an hour before noon."""
    values = {
        "version": 2,
        "previous": 1,
        "state": State.PROMOTED,
        "plan": plan.as_row(),
        "requested_by": "asset__1",
        "opened_at": naive_utc(noon - timedelta(hours=13)),
        "watch_from": naive_utc(noon - timedelta(hours=13)),
        "decided_at": naive_utc(noon - timedelta(hours=1)),
        "ended_at": naive_utc(noon - timedelta(hours=1)),
        "verdict": "pass",
        "reason": "mean response time 2 ms",
        "image": "sha256:" + "f" * 64,
    }
    with books.engine.begin() as connection:
        connection.execute(insert(releases).values(values))
    books.registry.notes[2] = "promoted"


def test_an_answer_leads_to_everything_it_rested_on(books, write, ship, track, promoted):
    write({})
    ship()
    track()
    found = explain(books, ID)
    assert found.unknown == ()
    assert found.receipt.version_number == 2
    assert (found.origin.rmse, found.origin.figures["ndcg_at_10"]) == (0.875, 0.4)
    assert (found.origin.registry_commit, found.origin.code_commit) == ("c" * 40, "d" * 40)
    assert found.hashes == {"batches": "b" * 32 + ".dir", "model": "e" * 32 + ".dir"}
    assert found.origin.offsets[0]["last"] == 120_343
    assert found.run_url == (
        "http://127.0.0.1:8080/dags/retrain/runs/scheduled__2026-11-22T03%3A00%3A00%2B00%3A00"
    )
    assert found.origin.gate_reason == "RMSE 0.8750 is below 1."
    assert (found.release.release_id, found.phase, found.became) == (1, "promoted", "promoted")


def test_the_image_that_answered_is_told(books, write, promoted):
    write({})
    told = {line.label: line.text for part in tell(explain(books, ID)).sections for line in part.lines}
    assert told["image"] == "sha256:" + "f" * 64


def test_the_explanation_is_json(books, write, track, promoted):
    write({})
    track()
    told = json.loads(json.dumps(explain(books, ID).as_json()))
    assert told["receipt"]["movie_ids"][:2] == ["m00", "m01"]
    assert told["version"]["trained_on"] == "2026-11-22T03:00:00+00:00"
    assert told["registry"]["tag"] == "v2"
    assert told["release"]["reason"] == "mean response time 2 ms"
    assert told["release"]["state_when_served"] == "promoted"
    assert told["unknown"] == []


def test_what_is_not_known_is_said_and_the_receipt_shows_all_the_same(books, write):
    write({"version_number": 0})
    found = explain(books, ID)
    assert found.receipt.user_id == "1"
    assert (found.origin, found.release, found.hashes, found.run_url) == (None, None, {}, "")
    training, data, release = found.unknown
    assert "version 0 has no row in the table `tracking`" in training
    assert "there is no version 0 in the registry" in data
    assert "no release of version 0" in release
    assert json.dumps(found.as_json())


def test_an_answer_of_a_moment_ago_is_explained_while_the_database_is_away(books, write, tmp_path):
    write({})
    books.engine.dispose()
    (tmp_path / "records.db").rename(tmp_path / "away.db")
    found = explain(books, ID)
    assert (found.receipt.kept_in, found.hashes["model"]) == ("spool", "e" * 32 + ".dir")
    assert [line.split(":")[0] for line in found.unknown] == ["training", "release"]
    assert "no such table" in found.unknown[0]


def test_the_last_receipt_is_the_answer_and_earlier_ones_are_attempts(books, write, noon):
    later = noon + timedelta(milliseconds=40)
    write({"replica": "stable-1"}, {"replica": "stable-2", "served_at": later.isoformat()})
    found = explain(books, ID)
    assert found.receipt.replica == "stable-2"
    assert [attempt.replica for attempt in found.attempts] == ["stable-1"]


@pytest.mark.parametrize("run_id", ["shell-20261122T030000", "bootstrap"])
def test_a_run_without_airflow_has_no_page_there(books, write, track, run_id):
    write({})
    track(run_id=run_id)
    assert explain(books, ID).run_url == ""


def test_a_version_of_before_these_columns_is_explained_as_far_as_it_goes(books, write, track):
    write({})
    track(figures=None, gate_reason=None, offsets=None, code_commit=None)
    found = explain(books, ID)
    assert (found.origin.rmse, found.origin.figures, found.origin.offsets) == (0.875, None, None)


def test_an_unknown_id_says_where_it_was_looked_for(books):
    with pytest.raises(NoReceipt) as info:
        explain(books, "b" * 32)
    assert "Looked for in: the database; the archive; the spool." in str(info.value)
    assert "No receipt is known to be lost in the last 24 hours." in str(info.value)


def test_an_unknown_id_names_the_losses_it_may_be_among(books, write, ship, noon):
    until = noon + timedelta(minutes=2)
    write({"lost": 1_234, "replica": "canary", "since": noon.isoformat(), "until": until.isoformat()})
    ship()
    with pytest.raises(NoReceipt, match="1,234 of canary from 12:00:00 to 12:02:00 UTC"):
        explain(books, "b" * 32, now=noon + timedelta(hours=1))
    with pytest.raises(NoReceipt, match="No receipt is known to be lost"):
        explain(books, "b" * 32, now=noon + timedelta(hours=25))


def test_an_unknown_id_is_not_called_unknown_while_the_database_is_away(books, tmp_path):
    books.engine.dispose()
    (tmp_path / "records.db").rename(tmp_path / "away.db")
    with pytest.raises(MarqueeError, match="may be there: no such table") as info:
        explain(books, "b" * 32)
    assert not isinstance(info.value, NoReceipt)


def test_a_release_that_has_ended_since_was_being_watched_when_it_served(books, write, promoted, noon):
    write({"arm": "canary", "served_at": (noon - timedelta(hours=2)).isoformat()})
    with books.engine.begin() as connection:
        connection.execute(update(releases).values(state=State.ABORTED, reason="too slow"))
    found = explain(books, ID)
    assert (found.phase, found.release.state, found.release.reason) == ("watching", "aborted", "too slow")
