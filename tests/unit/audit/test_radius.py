import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy.exc import OperationalError

from pipelines.audit import show
from pipelines.audit.radius import blast_radius
from pipelines.data import quarantine
from pipelines.data.batches import Batch
from pipelines.data.quarantine import Quarantined, Span
from pipelines.release.entries import State

SPAN = Span("movielog4", 1, 0, 100, 149)


def name(first, last):
    return Batch("movielog4", 1, 0, first, last, Path()).name


def where(first, last, **more):
    return {"topic": "movielog4", "generation": 1, "partition": 0, "first": first, "last": last} | more


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "batches"
    folder.mkdir()
    for first in (0, 120, 200):
        (folder / name(first, first + 79 + 40 * (first == 0))).touch()
    return folder


@pytest.fixture
def measured(books, folder):
    return lambda span=SPAN: blast_radius(books, folder, span)


def printed(found):
    console = Console(file=io.StringIO(), width=140)
    console.print(show.radius(found))
    return console.file.getvalue()


def test_batches_are_those_that_hold_some_of_the_range(measured, track):
    track(version_number=1, offsets=[])
    track(version_number=2, offsets=[])
    assert measured().batches == (name(0, 119), name(120, 199))


def test_versions_are_those_that_were_trained_on_some_of_it(measured, track):
    track(version_number=1, offsets=[where(0, 99)])
    track(version_number=2, offsets=[where(0, 119)])
    track(version_number=3, offsets=[where(0, 199)])
    track(version_number=4, offsets=[where(0, 999), where(90, 160, without="quarantined", why="by ann")])
    track(version_number=5, offsets=[where(0, 999, generation=2)])
    assert [(touched.version, touched.offsets) for touched in measured().versions] == [(2, 20), (3, 50)]
    # Versions 4 and 5 are not in the registry.
    assert measured().clean == 1


def test_what_was_not_written_down_is_asked_of_the_artifact(books, measured, track, monkeypatch):
    track(version_number=1, offsets=None)
    metas = {
        1: {"provenance": {"batches": [name(0, 119)]}},
        2: {"provenance": {"batches": ["ratings.csv"]}},
    }
    monkeypatch.setattr(books.registry, "meta", lambda version, models_dir: metas[version], raising=False)
    assert [(touched.version, touched.offsets) for touched in measured().versions] == [(1, 20)]


def test_answers_users_and_releases_are_those_of_the_versions(
    books, measured, track, write, ship, noon, plan
):
    track(version_number=1, offsets=[where(0, 99)])
    track(version_number=2, offsets=[where(0, 119)])
    opened = books.ledger.open(2, previous=1, plan=plan, requested_by="test")
    books.ledger.decide(opened.release_id, State.PROMOTING, verdict="pass", reason="fine")
    books.ledger.end(opened.release_id, State.PROMOTED)
    write(
        {}, {"request_id": "b"}, {"request_id": "c", "user_id": "7"}, {"request_id": "d", "version_number": 1}
    )
    ship()
    found = measured()
    (touched,) = found.versions
    assert (touched.reach.answers, touched.reach.users, touched.reach.first) == (3, 2, noon)
    assert found.reach == touched.reach
    assert (touched.serves, [release.release_id for release in touched.releases]) == (True, [1])
    assert found.clean == 1
    assert "v2, serves" in printed(found)
    assert "Together: 3 answers to 2 users, from 2026-11-22 12:00:00.000 UTC" in printed(found)
    assert "does not rest on it: `python -m pipelines rollback 1`" in printed(found)


def test_a_range_that_nothing_rests_on_says_so(measured, track):
    track(version_number=1, offsets=[where(0, 99)])
    track(version_number=2, offsets=[where(0, 99)])
    found = measured()
    assert (found.versions, found.reach.answers) == ((), 0)
    assert "No version was trained on it." in printed(found)


def test_whether_it_is_out_by_now_is_told(measured, folder, track, noon):
    track(version_number=1, offsets=[])
    track(version_number=2, offsets=[])
    assert not measured().quarantined
    quarantine.add(folder, Quarantined("movielog4", 1, 0, 0, 149, "a stuck client", "ann", noon))
    assert measured().quarantined
    assert "in quarantine: no training takes it any more" in printed(measured())
    assert not measured(Span("movielog4", 1, 0, 100, 150)).quarantined


def test_a_place_that_is_away_is_told_and_the_rest_is_found(books, measured, track, monkeypatch):
    track(version_number=1, offsets=[where(0, 999)])
    track(version_number=2, offsets=[where(0, 99)])

    def away():
        raise OperationalError("select", {}, Exception("the database is away"))

    monkeypatch.setattr(books.ledger, "stable", away)
    found = measured()
    assert [touched.version for touched in found.versions] == [1]
    assert found.unknown == ("the database is away",)
    assert "Not known: the database is away" in printed(found)


def test_a_program_gets_it_as_json(measured, track):
    track(version_number=1, offsets=[where(0, 119)])
    track(version_number=2, offsets=[where(0, 99)])
    told = json.loads(json.dumps(measured().as_json()))
    assert (told["topic"], told["first"], told["last"]) == ("movielog4", 100, 149)
    assert told["versions"] == [
        {
            "version": 1,
            "offsets": 20,
            "became": "",
            "serves": False,
            "releases": [],
            "answers": 0,
            "users": 0,
            "first_answer": None,
            "last_answer": None,
        }
    ]


def test_of_many_batches_the_first_and_the_last_are_named(books, tmp_path, track):
    folder = tmp_path / "many"
    folder.mkdir()
    for first in range(0, 100, 10):
        (folder / name(first, first + 9)).touch()
    track(version_number=1, offsets=[])
    track(version_number=2, offsets=[])
    text = printed(blast_radius(books, folder, Span("movielog4", 1, 0, 0, 99)))
    assert f"Batches that hold some of it: 10\n{name(0, 9)}\n…\n{name(90, 99)}\n" in text
