from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.alerts import Alert
from pipelines.data.batches import Batch, BatchInfo, write
from pipelines.data.news import news, tell
from pipelines.data.planning import Span

TOPIC = "movielog4"
QUIET = Span(0, 1, 80, 100)
GAP = Span(0, 1, 95, 100, "partition 0 lost the offsets 80 to 94", (80, 94))
OTHER_STREAM = Span(1, 2, 0, 10, "partition 1 is of another stream now")


@pytest.fixture
def collected(tmp_path: Path) -> Callable[..., Batch]:
    """Batches without rows, each with the hour at which it was collected."""

    def make(first: int, last: int, hour: int, *, generation: int = 1, partition: int = 0) -> Batch:
        info = BatchInfo(
            lines=last - first + 1,
            counts=dict.fromkeys(("watch", "rating", "request", "reject"), 0),
            rejects={},
            duplicates=0,
            identity="a",
            collected_at=datetime(2026, 11, 22, hour, 50, tzinfo=UTC),
            first_time=None,
            last_time=None,
        )
        batch = Batch(TOPIC, generation, partition, first, last, tmp_path)
        write(batch, [], info)
        return batch

    return make


def titles(alerts: list[Alert]) -> list[str]:
    return [alert.title for alert in alerts]


def test_a_stream_that_goes_on_is_no_news(collected):
    assert news(TOPIC, [QUIET], [], [collected(0, 79, 3)]) == []


def test_a_gap_is_told_with_its_range_its_lines_and_since_when(collected):
    batches = [collected(0, 9, 1), collected(10, 79, 3), collected(0, 99, 5, partition=1)]
    (alert,) = news(TOPIC, [GAP], [], batches)
    assert alert.title == "Marquee: up to 15 line(s) of movielog4 lost"
    assert (
        "- partition 0: offsets 80 to 94, 15 lines at most; "
        "what comes before them was collected on 2026-11-22 03:50 UTC\n" in alert.body
    )
    for what_to_do in ("every hour", "keep events longer", "collect --file"):
        assert what_to_do in alert.body


def test_gaps_of_several_partitions_are_one_alert(collected):
    batches = [collected(0, 79, 3), collected(0, 4, 3, partition=1)]
    other = Span(1, 1, 12, 12, "partition 1 lost the offsets 5 to 11", (5, 11))
    (alert,) = news(TOPIC, [GAP, other], [], batches)
    assert alert.title == f"Marquee: up to {15 + 7} line(s) of movielog4 lost"


def test_another_stream_and_a_gap_are_two_alerts(collected):
    found = news(TOPIC, [GAP, OTHER_STREAM], [], [collected(0, 79, 3)])
    assert titles(found) == [
        "Marquee: the event topic changed under us",
        "Marquee: up to 15 line(s) of movielog4 lost",
    ]
    assert "offsets" not in found[0].body


def test_what_was_told_is_no_news_and_a_gap_that_grew_is(collected):
    batches = [collected(0, 79, 3)]
    grown = Span(0, 1, 120, 120, "partition 0 lost the offsets 80 to 119", (80, 119))
    assert news(TOPIC, [GAP], [GAP.note], batches) == []
    assert titles(news(TOPIC, [grown], [GAP.note], batches)) == [
        "Marquee: up to 40 line(s) of movielog4 lost"
    ]


def test_the_same_is_told_once_until_it_was_otherwise(collected, tmp_path):
    collected(0, 79, 3)
    told: list[Alert] = []
    for spans in ([GAP], [GAP], [QUIET], [GAP]):
        tell(TOPIC, spans, tmp_path, told.append)
    assert len(told) == 2


def test_every_topic_has_its_own_news(collected, tmp_path):
    told: list[Alert] = []
    for topic in (TOPIC, "other", TOPIC, "other"):
        tell(topic, [OTHER_STREAM], tmp_path, told.append)
    assert len(told) == 2


def test_an_alert_that_was_killed_is_told_again(tmp_path):
    def killed(alert: Alert) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell(TOPIC, [OTHER_STREAM], tmp_path, killed)
    told: list[Alert] = []
    tell(TOPIC, [OTHER_STREAM], tmp_path, told.append)
    assert len(told) == 1


def test_a_file_torn_by_a_power_cut_holds_nothing_up(tmp_path):
    told: list[Alert] = []
    tell(TOPIC, [OTHER_STREAM], tmp_path, told.append)
    (tmp_path / "told.json").write_text("")
    for _ in range(2):
        tell(TOPIC, [OTHER_STREAM], tmp_path, told.append)
    assert len(told) == 2


def test_a_stream_that_goes_on_leaves_no_file(tmp_path):
    tell(TOPIC, [QUIET], tmp_path, [].append)
    assert list(tmp_path.iterdir()) == []
