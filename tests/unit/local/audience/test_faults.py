import random
from collections.abc import Callable

import pytest

from pipelines.events.grammar import Rating, Reason, Reject, Request, Watch, parse
from pipelines.local.audience import faults

WATCH = "2022-11-14T12:24,232596,GET /data/m/fight+club+1999/128.mpg"
RATE = "2023-09-28T20:20:23,65458,GET /rate/brazil+1985=5"
CALL = "2023-10-25T07:20:57.389,226993,recommendation request host:8082, status 200, result: up+2009, 351 ms"


def reasons(fault: Callable[[str, random.Random], str], line: str, n: int = 300) -> set[str]:
    """What the parser makes of ``n`` spoilt copies of a line."""
    rng = random.Random(1)
    events = [parse(fault(line, rng).encode()) for _ in range(n)]
    return {str(event.reason) if isinstance(event, Reject) else type(event).__name__ for event in events}


@pytest.mark.parametrize(
    ("fault", "line", "outcome"),
    [
        (faults.insert_digit_in_user, WATCH, {"Watch", Reason.BAD_USER}),
        (faults.empty_value, WATCH, {Reason.BAD_TIME, Reason.BAD_USER}),
        (faults.empty_movie, WATCH, {Reason.BAD_MOVIE}),
        (faults.empty_movie, RATE, {Reason.BAD_MOVIE}),
        (faults.random_movie, WATCH, {Reason.BAD_MOVIE}),
        (faults.random_movie, RATE, {Reason.BAD_MOVIE}),
        (faults.letter_for_rating, RATE, {Reason.BAD_RATING}),
        (faults.wrong_range_rating, RATE, {Reason.BAD_RATING}),
        (faults.drop_field, WATCH, {Reason.BAD_TIME, Reason.BAD_USER, Reason.UNKNOWN_ACTION}),
        (faults.duplicate, CALL, {"Request"}),
    ],
)
def test_each_fault_spoils_what_its_name_says(
    fault: Callable[[str, random.Random], str], line: str, outcome: set[str]
) -> None:
    # A digit inserted into 232596 can be a leading 0, which changes nothing.
    assert reasons(fault, line) == outcome


def test_an_inserted_character_breaks_some_lines_and_slips_into_others() -> None:
    outcomes = reasons(faults.insert_character, WATCH, n=2_000)
    assert "Watch" in outcomes
    assert {Reason.BAD_TIME, Reason.BAD_USER, Reason.UNKNOWN_ACTION, Reason.BAD_MINUTE} <= outcomes


def test_an_inserted_character_is_one_blank_letter_or_digit() -> None:
    rng = random.Random(1)
    for _ in range(500):
        spoilt = faults.insert_character(RATE, rng)
        at = next((i for i, (a, b) in enumerate(zip(RATE, spoilt, strict=False)) if a != b), len(RATE))
        assert spoilt[:at] + spoilt[at + 1 :] == RATE
        assert spoilt[at] == " " or spoilt[at].isalnum()


def test_no_share_leaves_every_line_alone() -> None:
    assert list(faults.with_faults([WATCH, RATE, CALL], random.Random(1), share=0.0)) == [WATCH, RATE, CALL]


def test_every_line_is_spoilt_or_doubled_when_all_shall_be() -> None:
    spoilt = list(faults.with_faults([CALL] * 1_000, random.Random(1), share=1.0))
    assert 1_000 < len(spoilt) <= 2_000
    assert spoilt.count(CALL) == 2 * (len(spoilt) - 1_000)


def test_the_share_holds_on_a_large_sample() -> None:
    n, share = 200_000, faults.FAULT_SHARE
    deviation = (n * share * (1 - share)) ** 0.5
    passed = list(faults.with_faults([WATCH] * n, random.Random(1)))
    doubled = len(passed) - n
    spoilt = n - passed.count(WATCH) + 2 * doubled
    assert spoilt == pytest.approx(n * share, abs=4 * deviation)
    assert share >= 0.0011


def test_what_is_not_spoilt_parses() -> None:
    kinds = [type(parse(line.encode())) for line in (WATCH, RATE, CALL)]
    assert kinds == [Watch, Rating, Request]
