from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.model.arrays import LIST_LENGTH
from pipelines.model.ids import MAX_ID_BYTES
from pipelines.recents import MOST_MOVIES
from pipelines.records.lines import parse
from tests.receipts import as_line, line, loss, receipt, row


def test_receipt_becomes_a_row():
    assert parse([line("a")]).receipts == [row("a")]


def test_receipt_without_what_was_watched_had_nothing_folded_in():
    old = receipt()
    del old["watched"]
    assert parse([as_line(old)]).receipts == [row(watched="")]


def test_loss_becomes_a_row():
    parsed = parse([loss(7)])
    since, until = datetime(2026, 3, 2, 10, 0, 0, 1), datetime(2026, 3, 2, 10, 5)
    assert parsed.losses == [{"replica": "stable-1", "since": since, "until": until, "count": 7}]
    assert parsed.receipts == parsed.malformed == []


def test_the_longest_ids_that_a_model_can_hold_fit_into_a_receipt():
    longest = "x" * MAX_ID_BYTES
    ids = {"movie_ids": ",".join([longest] * LIST_LENGTH), "watched": ",".join([longest] * MOST_MOVIES)}
    assert parse([line(**ids)]).receipts == [row(**ids)]


def test_user_id_is_cut_like_the_column():
    assert parse([line(user_id="9" * 300)]).receipts == [row(user_id="9" * 255)]


@pytest.mark.parametrize(
    "bad",
    [
        b"{not json}",
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        line("x" * 65),
        line(""),
        line(version_number=None),
        line(version_number=2**31),
        line(served_at="yesterday"),
        line(served_at="2026-03-02T10:00:00"),
        line(served_at="0001-01-01T00:00:00+05:00"),
        line(latency_ms=float("nan")),
        line(arm="y" * 17),
        line(canary_percent=101),
        line(watched="x" * 65_536),
        line(movie_ids="é" * 32_768),
        loss(0),
        loss(2**31),
        loss(since="2026-03-02T10:00:00"),
    ],
)
def test_line_that_no_table_could_take_is_malformed(bad):
    parsed = parse([line("a"), bad, line("b")])
    assert parsed.receipts == [row("a"), row("b")]
    assert parsed.malformed == [bad]


@given(lines=st.lists(st.binary(max_size=60)))
def test_no_bytes_stop_the_reader(lines):
    parsed = parse([*lines, line("a")])
    assert parsed.receipts == [row("a")]
    assert parsed.malformed == [text for text in lines if text]
