"""The script that the stand-ins play, and the book they write their calls into."""

import json
import os
from pathlib import Path
from typing import Any

STAGE = Path(os.environ["MARQUEE_TEST_STAGE"])


def play(call: str, **arguments: Any) -> Any:
    """Note the call; raise or return what ``script.json`` says about it."""
    with (STAGE / "calls.jsonl").open("a") as book:
        book.write(json.dumps({"call": call, **arguments}) + "\n")
    line = json.loads((STAGE / "script.json").read_text()).get(call)
    if isinstance(line, dict) and "raise" in line:
        from pipelines import errors

        raise getattr(errors, line["raise"])(line["text"])
    return line
