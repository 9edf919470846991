"""The script that the stand-ins play, and the book they write their calls into."""

import json
import os
from pathlib import Path
from typing import Any

STAGE = Path(os.environ["MARQUEE_TEST_STAGE"])


def play(call: str, **arguments: Any) -> Any:
    """Note the call; raise or return what ``script.json`` says about it."""
    note(call, **arguments)
    return line(call)


def note(call: str, **arguments: Any) -> None:
    """Note the call."""
    with (STAGE / "calls.jsonl").open("a") as book:
        book.write(json.dumps({"call": call, **arguments}) + "\n")


def noted(call: str) -> list[dict[str, Any]]:
    """Return the arguments of every such call that was noted."""
    calls = map(json.loads, (STAGE / "calls.jsonl").read_text().splitlines())
    return [each for each in calls if each.pop("call") == call]


def line(call: str) -> Any:
    """Raise or return what ``script.json`` says; for a step that also runs by itself, and is not noted."""
    said = json.loads((STAGE / "script.json").read_text()).get(call)
    if isinstance(said, dict) and "raise" in said:
        from pipelines import errors

        raise getattr(errors, said["raise"])(said["text"])
    return said
