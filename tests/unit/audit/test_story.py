import io
from datetime import timedelta

import pytest
from rich.console import Console

from pipelines.audit import show
from pipelines.audit.explain import explain
from pipelines.audit.replay import Replay
from pipelines.audit.served import served_at
from pipelines.audit.story import tell
from pipelines.records.lookup import Lost, VersionShare

ID = "a" * 32


def lines(story):
    return {section.title: {line.label: line.text for line in section.lines} for section in story.sections}


def printed(renderable, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_the_headline_says_who_got_what_from_which_version_and_when(books, write):
    write({})
    told = tell(explain(books, ID))
    assert told.headline == "User 1 got 20 movies from version 2 (stable)"
    assert told.when == "2026-11-22 12:00:00.000 UTC"


@pytest.mark.parametrize(
    ("user_id", "named"),
    [("ünbekannt", "ünbekannt"), ("\x1b[2Jme", r"'\x1b[2Jme'"), ("", "''")],
)
def test_a_user_id_that_a_terminal_would_obey_is_told_escaped(books, write, user_id, named):
    write({"user_id": user_id})
    assert tell(explain(books, ID)).headline.startswith(f"User {named} got ")


def test_the_chain_is_told_in_order_with_each_figure_beside_its_rival(books, write, track):
    write({"canary_percent": 20, "watched": "m05,m08"})
    track()
    told = lines(tell(explain(books, ID)))
    assert list(told) == ["Answer", "Model", "Data", "Made by", "Not known"]
    assert told["Answer"]["split"] == "20 % of the users went to the candidate"
    assert told["Answer"]["watched lately"] == "m05, m08"
    assert told["Model"]["RMSE"] == "0.8750 stars on 1,000 newest ratings"
    assert told["Model"]["nDCG@10"] == "0.4000 over 0 users (popularity: 0.2500)"
    assert told["Data"]["stream"] == "movielog4, partition 0: offsets 0 to 120,343"
    assert told["Made by"]["registry"] == f"commit {'c' * 40}, tag v2"


def test_what_an_older_version_did_not_write_down_is_said(books, write, track):
    write({})
    track(figures=None, gate_reason=None, offsets=None, code_commit=None)
    told = lines(tell(explain(books, ID)))
    assert told["Model"]["RMSE"] == "0.8750 stars"
    for text in (told["Model"]["gate"], told["Data"]["stream"], told["Made by"]["code"]):
        assert "not kept when this version was made" in text


def test_a_stream_that_was_created_again_is_told(books, write, track):
    write({})
    again = {"topic": "movielog4", "generation": 2, "partition": 1, "first": 0, "last": 9}
    track(offsets=[again])
    told = lines(tell(explain(books, ID)))
    assert told["Data"]["stream"] == ("movielog4, partition 1: offsets 0 to 9 (created again, generation 2)")


@pytest.mark.parametrize(
    ("hole", "words"),
    [
        (
            {"without": "quarantined", "why": "by ann on 2026-11-22 12:00 UTC: a stuck client"},
            "quarantined by ann on 2026-11-22 12:00 UTC: a stuck client",
        ),
        ({"without": "lost", "why": ""}, "gone from the broker before they were collected"),
        ({"without": "missing", "why": ""}, "no batch held them when this version was trained"),
    ],
)
def test_what_a_version_has_not_seen_is_told_beside_what_it_has(books, write, track, hole, words):
    write({})
    where = {"topic": "movielog4", "generation": 1, "partition": 0}
    track(offsets=[{**where, "first": 0, "last": 999}, {**where, "first": 100, "last": 149, **hole}])
    told = lines(tell(explain(books, ID)))
    assert told["Data"]["stream"] == "movielog4, partition 0: offsets 0 to 999"
    assert told["Data"]["not seen"] == f"movielog4, partition 0: offsets 100 to 149, {words}"


def test_attempts_that_never_arrived_are_told(books, write, noon):
    write({"replica": "stable-2", "served_at": (noon - timedelta(seconds=1)).isoformat()}, {})
    told = lines(tell(explain(books, ID)))
    assert told["Answer"]["never arrived"] == "2026-11-22 11:59:59.000 UTC: version 2 by stable-2"


@pytest.mark.parametrize(
    ("same", "again", "label", "shown"),
    [
        (True, ("m01",), "the same list", 0),
        (False, ("m01",), "not the same list", 1),
        (False, (), "no replay", 0),
    ],
)
def test_a_replay_shows_the_other_list_only_where_it_differs(books, write, same, again, label, shown):
    write({})
    told = tell(explain(books, ID), Replay(same, "because", again))
    (line,) = told.sections[1].lines
    assert (told.sections[1].title, line.label, len(line.items)) == ("Replay", label, shown)
    assert line.good is same


def test_a_terminal_shows_everything_and_takes_no_id_for_markup(books, write, track):
    write({"user_id": "[red]x[/red]"})
    track()
    text = printed(show.story(tell(explain(books, ID))))
    assert "User [red]x[/red] got 20 movies" in text
    assert " 1 m00" in text
    assert "20 m19" in text
    assert "http://127.0.0.1:8080/dags/retrain/runs/scheduled__2026-11-22T03%3A00%3A00%2B00%3A00" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_moment_is_shown_with_shares_and_losses(noon):
    shares = [
        VersionShare(2, "stable", 20, 75, 40, noon, noon),
        VersionShare(3, "canary", 20, 25, 9, noon, noon),
    ]
    text = printed(show.served_at(served_at(noon, 30, [], shares, [Lost("canary", noon, noon, 1_200)])))
    assert "By the ledger the stable version was nothing yet." in text
    assert "75.0%" in text
    assert "25.0%" in text
    assert "Not counted: 1,200 answers of canary" in text


def test_a_moment_without_an_answer_says_so(noon):
    assert "No answer was given in that time." in printed(show.served_at(served_at(noon, 30, [], [], [])))


def test_the_answers_of_a_user_are_listed_with_their_request_ids(books, write, noon):
    write({})
    found = books.receipts.of_user("1", since=noon, until=noon + timedelta(seconds=1), limit=9)
    text = printed(show.receipts("1", found), width=140)
    assert ID in text
    assert "User 2 got no answer" in printed(show.receipts("2", []))


def test_the_use_of_a_version_is_shown_by_rung_and_day(books, write):
    write({"request_id": "1"}, {"request_id": "2"}, {"request_id": "3", "source": "trending"})
    text = printed(show.version(books.receipts.of_version(2)))
    assert "Version 2 gave 3 answers to 1 users" in text
    assert "66.7%" in text
    assert "2026-11-22" in text
    assert "Version 9 never answered anybody." in printed(show.version(books.receipts.of_version(9)))
