"""Fifty clean days of the audience: how many false alarms do the checks raise?

Each day is collected and checked on its evening, against everything before it. The injected faults are part
of a clean day. The last day is then checked as if its viewers had rolled dice: the checks are not blind.
"""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from pipelines.local.audience import tastes
from pipelines.local.audience.viewers import Taste
from tests.benchmarks.report import Report
from tests.days import Days

SECTION = "Clean days"
DAYS = 50
LINES_A_DAY = 300_000
REAL_LINES_A_DAY = 43_000_000
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


def run(report: Report) -> None:
    """Let the days pass, count the alarms, then roll the dice."""
    with tempfile.TemporaryDirectory() as folder:
        days = Days(Path(folder), tastes.load(), BEGIN, LINES_A_DAY)
        alarms, silent = {"warning": 0, "critical": 0}, 0
        started = time.perf_counter()
        for _ in range(DAYS):
            checked = days.checked(days.pass_one())
            silent += bool(checked.silent_lines())
            for severity in alarms:
                lines = checked.failed_lines(severity)
                alarms[severity] += len(lines)
                for line in lines:
                    report.console.print(f"day {days.days}: {line}", markup=False)
        seconds = time.perf_counter() - started
        days.audience.taste = Taste.RANDOM
        dice = days.checked(days.pass_one()).failed_lines()
    scale = f"{DAYS} days of {LINES_A_DAY:,} lines, 1/{REAL_LINES_A_DAY / LINES_A_DAY:.0f} of the stream"
    for severity, count in alarms.items():
        report.add(
            SECTION, f"false alarms ({severity}) in {scale}", count, unit="", better="less", wanted="0"
        )
    report.add(
        SECTION, "of them days with a check that had nothing to look at", silent, unit="", better="less"
    )
    report.add(SECTION, "alarms on one more day whose viewers roll dice", len(dice), unit="", wanted="> 0")
    report.add(SECTION, "all of it", seconds, unit="s", better="less")
