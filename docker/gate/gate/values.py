"""JSON, and what a value in it may be."""

import json
import re
from collections.abc import Callable
from typing import Any

from gate.refusal import malformed

Sees = Callable[[Any], bool]
"""Says whether a value may stand where it stands; for one that may not it may raise what Python raises."""


def read_json(text: str) -> dict[str, Any]:
    """Return the object in ``text``; refused are other values and a key that is there twice."""
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(f"JSON that cannot be read ({str(error)[:80]})") from None
    if not isinstance(value, dict):
        raise malformed("JSON that is no object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Docker takes "hostconfig" for "HostConfig", also with a long s, and the last of several.
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(name)


def is_no(parameter: str) -> bool:
    """Say whether Docker takes it for no in a query."""
    return parameter.lower() in {"", "0", "no", "false", "none"}


def is_text(value: Any) -> bool:
    """Say whether it is a string."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """Say whether it is true or false."""
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Say whether it is a whole number, zero or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_count_or_none(value: Any) -> bool:
    """Say whether it is a count; -1 stands for no limit."""
    return is_count(value) or value == -1


def are_texts(value: Any) -> bool:
    """Say whether it is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_command(value: Any) -> bool:
    """Say whether it is a string or a list of strings."""
    return is_text(value) or are_texts(value)


def is_one_of(*allowed: Any) -> Sees:
    """Return what knows these values."""
    return lambda value: value in allowed


def are_of(*allowed: str) -> Sees:
    """Return what knows lists of these strings."""
    return lambda value: are_texts(value) and set(value) <= set(allowed)


def maps(key: str, item: Sees) -> Sees:
    """Return what knows objects whose keys match ``key``."""
    return lambda value: all(re.fullmatch(key, k) and item(v) for k, v in value.items())


def holds(**keys: Sees) -> Sees:
    """Return what knows objects with these keys, each in this very spelling, empty, or left out."""
    return lambda value: all(k in keys and (not v or keys[k](v)) for k, v in value.items())


def each(item: Sees) -> Sees:
    """Return what knows lists of such items."""
    return lambda value: isinstance(value, list) and all(item(one) for one in value)
