"""Ours beside the alternatives, measured in one run: `make bench`. Ratios hold, absolute figures swing.

`make bench ONLY=serving` measures one part; its section of `RESULTS.md` is replaced, the others stay.
"""

import importlib
import sys
from pathlib import Path

from rich.console import Console

from tests.benchmarks.report import Report, machine

PARTS = (
    *("events", "validating", "clean_days", "telemetry", "ranking", "training", "serving"),
    *("receipts", "releases", "images"),
)
RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = """\
# What was measured

Written by `make bench`, which runs us and the alternatives one after the other on the same machine. Where a
column says "wanted", that is the aim, whether it was met or not.
"""


def main(parts: tuple[str, ...]) -> None:
    """Run the parts and write their sections."""
    for part in parts:
        report = Report(Console(soft_wrap=True))
        importlib.import_module(f"tests.benchmarks.{part}").run(report)
        sections = "".join(report.section(name) for name in report.sections)
        write(part, f"<!-- {part} -->\n{sections}Measured on {machine()}.\n")


def write(part: str, text: str) -> None:
    """Put the text of a part in its place in the file, which is made when it is missing."""
    old = RESULTS.read_text() if RESULTS.exists() else ""
    kept = {chunk.partition(" -->")[0]: "<!-- " + chunk for chunk in old.split("<!-- ")[1:]}
    kept[part] = text
    RESULTS.write_text("\n".join([HEAD, *(kept[name].rstrip() + "\n" for name in PARTS if name in kept)]))


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:]) or PARTS
    if unknown := set(chosen) - set(PARTS):
        sys.exit(f"{', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    main(chosen)
