import logging
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import progress
from pipelines.progress import duration, finished, logged, per_second, so_far


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, logger=progress.__name__)
    return lambda: caplog.messages


def play(steps: Sequence[tuple[float, int]], total: int) -> None:
    """Report ``done`` at each (second, done)."""
    clock = Clock()
    with logged("collect", "lines", clock=clock) as report:
        for after_s, done in steps:
            clock.now_s = 1_000.0 + after_s
            report(done, total)


def test_how_far_it_is_says_share_rate_and_time_left():
    # 12.3 million in 68 s are 180,882/s; 73.7 million are left, for 407 s.
    said = so_far(12_300_000, 86_000_000, "lines", 68.0)
    assert said == "12,300,000 of 86,000,000 lines (14 %), 181,000/s, 7 min left"


@pytest.mark.parametrize(("done", "elapsed_s"), [(0, 5.0), (3, 0.0)])
def test_without_a_rate_there_is_no_time_left(done, elapsed_s):
    assert so_far(done, 10, "epochs", elapsed_s) == f"{done} of 10 epochs ({10 * done} %)"


def test_nothing_is_all_done_before_it_is():
    assert "(99 %)" in so_far(99_999, 100_000, "lines", 1.0)


def test_the_last_words_are_totals():
    assert finished(86_000_000, 86_000_000, "lines", 475.0) == "86,000,000 lines in 8 min, 181,000/s"
    assert finished(35, 35, "lines", 0.0) == "35 lines in 0 s"


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (180_882.3, "181,000/s"),
        (999.9, "1,000/s"),
        (99.96, "100/s"),
        (99.94, "99.9/s"),
        (0.4, "0.4/s"),
    ],
)
def test_three_digits_of_a_rate_count(rate, said):
    assert per_second(rate) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (407, "7 min"),
        (3_540, "59 min"),
        (3_580, "1 h 0 min"),
        (7_800, "2 h 10 min"),
    ],
)
def test_spans_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


@given(st.floats(0, 1e7))
def test_a_span_is_off_by_half_of_its_smallest_unit_at_most(seconds):
    words = duration(seconds).split()
    units = {"s": 1, "min": 60, "h": 3_600}
    meant = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(meant - seconds) <= (0.5 if "s" in words else 30)


def test_a_log_gets_a_line_every_ten_seconds_and_the_totals(lines):
    play([(0, 0), (5, 100), (10, 200), (15, 300), (19, 400), (20, 500), (40, 1_000)], total=1_000)
    assert lines() == [
        "collect: 200 of 1,000 lines (20 %), 20/s, 40 s left",
        "collect: 500 of 1,000 lines (50 %), 25/s, 20 s left",
        "collect: 1,000 lines in 40 s, 25/s",
    ]


def test_time_before_the_first_report_is_nobodys_rate(lines):
    play([(600, 0), (620, 10)], total=10)
    assert lines()[-1] == "collect: 10 lines in 20 s, 0.5/s"


def test_a_step_that_breaks_off_says_how_far_it_came(lines):
    def break_off() -> None:
        with logged("collect", "lines") as report:
            report(0, 10)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        break_off()
    assert lines() == ["collect: 0 of 10 lines (0 %)"]


@pytest.mark.parametrize("steps", [[], [(0.0, 0)]])
def test_a_step_without_work_says_nothing(lines, steps):
    play(steps, total=0)
    assert lines() == []
