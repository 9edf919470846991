"""The faults that the stream injects on purpose, in the forms of its documentation."""

import random
import re
import string
from collections.abc import Callable, Iterable, Iterator

FAULT_SHARE = 0.0015
"""Share of the lines that are spoilt; the captures have at least 0.0011."""

_LETTERS = string.ascii_letters + string.digits
_MOVIE = re.compile(r"(?<=GET /data/m/)[^/]+|(?<=GET /rate/)[^=]+")

Fault = Callable[[str, random.Random], str]


def with_faults(lines: Iterable[str], rng: random.Random, share: float = FAULT_SHARE) -> Iterator[str]:
    """Pass lines on, a ``share`` of them spoilt or sent twice."""
    for line in lines:
        if rng.random() >= share:
            yield line
            continue
        fault = rng.choice(_faults_for(line))
        spoilt = fault(line, rng)
        yield spoilt
        if fault is duplicate:
            yield spoilt


def insert_character(line: str, rng: random.Random) -> str:
    """Put one blank, letter or digit anywhere; some such lines still parse."""
    return _insert(line, rng.choice(_LETTERS + " "), rng.randint(0, len(line)))


def insert_digit_in_user(line: str, rng: random.Random) -> str:
    """Make the user id one digit longer."""
    time, user, rest = line.split(",", 2)
    return f"{time},{_insert(user, rng.choice(string.digits), rng.randint(0, len(user)))},{rest}"


def drop_field(line: str, rng: random.Random) -> str:
    """Leave out one of the first three fields, comma and all."""
    fields = line.split(",", 2)
    del fields[rng.randrange(3)]
    return ",".join(fields)


def empty_value(line: str, rng: random.Random) -> str:
    """Leave out the value of the time or the user, but not its comma."""
    fields = line.split(",", 2)
    fields[rng.randrange(2)] = ""
    return ",".join(fields)


def duplicate(line: str, rng: random.Random) -> str:
    """Change nothing; the line is sent twice."""
    return line


def empty_movie(line: str, rng: random.Random) -> str:
    """Leave the movie id out."""
    return _MOVIE.sub("", line, count=1)


def random_movie(line: str, rng: random.Random) -> str:
    """Put 10 to 60 random letters and digits for the movie id."""
    garbage = "".join(rng.choices(_LETTERS, k=rng.randint(10, 60)))
    return _MOVIE.sub(garbage, line, count=1)


def letter_for_rating(line: str, rng: random.Random) -> str:
    """Put a letter for the stars."""
    return line.rpartition("=")[0] + "=" + rng.choice(string.ascii_uppercase)


def wrong_range_rating(line: str, rng: random.Random) -> str:
    """Put a number for the stars that is none of 1 to 5."""
    return line.rpartition("=")[0] + "=" + rng.choice(("0", "6", "7", "9", "10", "45", "-1"))


_ANY_LINE: tuple[Fault, ...] = (
    insert_character,
    insert_digit_in_user,
    drop_field,
    empty_value,
    duplicate,
)
_MOVIE_LINE: tuple[Fault, ...] = (*_ANY_LINE, empty_movie, random_movie)
_RATING_LINE: tuple[Fault, ...] = (*_MOVIE_LINE, letter_for_rating, wrong_range_rating)


def _faults_for(line: str) -> tuple[Fault, ...]:
    if "GET /rate/" in line:
        return _RATING_LINE
    return _MOVIE_LINE if "GET /data/m/" in line else _ANY_LINE


def _insert(text: str, character: str, at: int) -> str:
    return text[:at] + character + text[at:]
