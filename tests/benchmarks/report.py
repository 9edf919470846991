"""One row for each figure: ours, the rival's, their ratio, what was wanted. Printed at once and kept."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console

Better = Literal["more", "less"]

_HEAD = "| What | Ours | Rival | Ours / rival | Wanted | The rival |\n|---|---:|---:|---:|---|---|\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    what: str
    ours: float
    rival: float | None
    unit: str
    rival_name: str
    better: Better
    wanted: str

    @property
    def ratio(self) -> str:
        return "" if not self.rival else f"{self.ours / self.rival:.2f}"

    def as_markdown(self) -> str:
        rival = "" if self.rival is None else f"{number(self.rival)} {self.unit}"
        what = f"{self.what} ({self.better} is better)"
        ours = f"{number(self.ours)} {self.unit}"
        return f"| {what} | {ours} | {rival} | {self.ratio} | {self.wanted} | {self.rival_name} |\n"


class Report:
    """All rows of a run, by section in the order of their first row."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._sections: dict[str, list[Row]] = {}

    def add(
        self,
        section: str,
        what: str,
        ours: float,
        rival: float | None = None,
        *,
        unit: str,
        rival_name: str = "",
        better: Better = "more",
        wanted: str = "",
    ) -> None:
        """Print a row and keep it; ``ours`` and ``rival`` in ``unit``, measured in this run."""
        row = Row(what, ours, rival, unit, rival_name, better, wanted)
        self._sections.setdefault(section, []).append(row)
        beside = "" if rival is None else f"  beside {number(rival)} ({rival_name}): {row.ratio}"
        aim = f"  [wanted: {wanted}]" if wanted else ""
        self.console.print(
            f"{section} · {what}: {number(ours)} {unit}{beside}{aim}", markup=False, highlight=False
        )

    def section(self, name: str) -> str:
        """Return one section as Markdown."""
        return f"## {name}\n\n{_HEAD}{''.join(row.as_markdown() for row in self._sections[name])}\n"

    @property
    def sections(self) -> list[str]:
        """Names of the sections that have rows."""
        return list(self._sections)


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def machine() -> str:
    """Name the machine and the day: figures of another one are not comparable, ratios nearly are."""
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    chip = lines[0].partition(":")[2].strip() if lines else platform.machine()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{len(os.sched_getaffinity(0))} cores ({chip}), {memory_gib:.0f} GiB, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )
