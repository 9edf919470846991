"""Validate: new batches are held against the suites below ``expectations/``.

Rows are looked at one by one, what they add up to as figures, and both are compared with the data that the
serving model was trained on. Only a failed critical check refuses the batches.
"""

import gc
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipelines.checks import census, drift, figures, volume
from pipelines.checks.figures import Figures
from pipelines.checks.profile import Reference
from pipelines.checks.running import Check, run
from pipelines.checks.suites import KINDS, Severity, Suite, load_suites
from pipelines.data import quarantine
from pipelines.data.batches import Batch, BatchInfo, list_batches, read_table
from pipelines.data.leftout import remaining
from pipelines.data.quarantine import Quarantined
from pipelines.errors import NothingNew
from pipelines.progress import Progress, nobody

_BACK: Final = timedelta(days=volume.BACK_DAYS, hours=1)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all checks of one run."""

    checked_at: datetime
    batches: tuple[str, ...]
    compared_with: str
    """Which data the new ones were compared with, or why with none."""
    rows: dict[str, int]
    """Rows that each suite was held against."""
    figures: dict[str, dict[str, float | None]]
    """The figures of suites that look at one row; null: not known."""
    checks: tuple[Check, ...]

    @property
    def success(self) -> bool:
        """Whether no critical check failed."""
        return not self.failed_lines("critical")

    def failed_lines(self, severity: Severity | None = None) -> list[str]:
        """Return one line for each failed check, of one severity or of all, the critical ones first."""
        failed = [
            check for check in self.checks if check.outcome == "failed" and severity in (None, check.severity)
        ]
        return [check.line for check in sorted(failed, key=lambda check: check.severity)]

    def silent_lines(self) -> list[str]:
        """Return one line for each reason why checks were not looked at, which is not to say passed."""
        reasons: dict[str, list[str]] = {}
        for check in self.checks:
            if check.outcome == "not looked at":
                reasons.setdefault(check.observed, []).append(check.where)
        return [f"not looked at: {', '.join(dict.fromkeys(where))}: {why}" for why, where in reasons.items()]

    def as_json(self) -> dict[str, Any]:
        """Return what is written to the report's file."""
        return {"success": self.success, **asdict(self), "checked_at": self.checked_at.isoformat()}


def validate(
    batches_dir: Path,
    names: Sequence[str],
    suites_dir: Path,
    report_path: Path,
    *,
    now: datetime,
    reference: Reference | str,
    progress: Progress = nobody,
) -> Report:
    """Check the batches ``names`` of ``batches_dir`` and write the report as JSON.

    Args:
        batches_dir: folder of the batches.
        names: file names of the batches that are new.
        suites_dir: folder of the suites.
        report_path: appears whole or not at all; an older report there is replaced.
        now: what freshness is measured against; with a zone.
        reference: what the data are compared with, or why there is nothing: those checks are then not looked
            at, and the report says so.
        progress: called with (checks done, checks in all), suite by suite.

    Raises:
        NothingNew: no batch was named.
        DataError: a batch cannot be read, or a suite is malformed.
    """
    if not names:
        raise NothingNew(
            f"nothing new in {batches_dir}: no batch was named, wanted is at least one; "
            "collect first, and train nothing until something came"
        )
    suites = load_suites(suites_dir)
    rows: dict[str, int] = {}
    known: dict[str, dict[str, float | None]] = {}
    checks: list[Check] = []
    progress(0, total := sum(len(suite.entries) for suite in suites.values()))
    for name, looked_at in _looked_at(batches_dir, names, now, reference, suites):
        checks += run(suites[name], looked_at)
        progress(len(checks), total)
        if isinstance(looked_at, Figures):
            rows[name] = len(looked_at.frame)
            if not looked_at.keys:
                known[name] = _row(looked_at)
        else:
            rows[name] = looked_at.num_rows
    compared = reference if isinstance(reference, str) else f"the data of version {reference.version}"
    report = Report(now, tuple(names), compared, rows, known, tuple(checks))
    _write(report_path, report)
    return report


def _looked_at(
    batches_dir: Path,
    names: Sequence[str],
    now: datetime,
    reference: Reference | str,
    suites: Mapping[str, Suite],
) -> Iterator[tuple[str, pa.Table | Figures]]:
    """Yield each suite with what it is held against."""
    chosen = set(names)
    tables: dict[str, pa.Table] = {}
    for name, kind in KINDS.items():
        columns = {column for entry in suites[name].entries for column in entry.columns}
        wanted = list(dict.fromkeys([*census.COLUMNS[kind], *sorted(columns)]))
        tables[kind] = read_table(batches_dir, kind, wanted, names).unify_dictionaries()
        yield name, tables[kind]
    gc.collect()  # Great Expectations holds on to the frame that it had last
    counted = census.take(tables.pop("watch"), tables.pop("rating"), tables.pop("request"))
    yield "movies", figures.movies(counted)
    yield "users", figures.users(counted)
    yield "drift", drift.compare(counted, reference)
    left, hourly = _told(batches_dir, chosen)
    yield "stream", figures.stream(left, now)
    yield "rejects", figures.rejects(left, reference if isinstance(reference, str) else reference.profile)
    yield "volume", volume.per_hour(hourly, _before(batches_dir, chosen, hourly))


def _told(batches_dir: Path, names: Collection[str]) -> tuple[list[BatchInfo], dict[str, list[BatchInfo]]]:
    """Return what the named batches say of themselves: less what is quarantined, and by topic for hours."""
    entries = quarantine.read(batches_dir)
    batches = [batch for batch in list_batches(batches_dir) if batch.name in names]
    hourly: dict[str, list[BatchInfo]] = {}
    for batch in batches:
        hourly.setdefault(batch.topic, []).append(_hourly(batch, entries))
    return [remaining(batch, quarantine.of(batch, entries)) for batch in batches], hourly


def _hourly(batch: Batch, entries: Sequence[Quarantined]) -> BatchInfo:
    """Return what a batch says, but nothing of its hours when lines are out: whose they are is not known."""
    info = batch.info()
    return replace(info, hours={}) if quarantine.of(batch, entries) else info


def _before(
    batches_dir: Path, names: Collection[str], new: Mapping[str, Sequence[BatchInfo]]
) -> dict[str, list[BatchInfo]]:
    """Return by topic what the batches say of themselves that hold the days before the new ones."""
    entries = quarantine.read(batches_dir)
    times = {topic: [info.first_time for info in infos if info.first_time] for topic, infos in new.items()}
    oldest = {topic: min(found) for topic, found in times.items() if found}
    old_enough: set[tuple[str, int, int]] = set()
    before: dict[str, list[BatchInfo]] = {}
    # Newest first, and no further than needed: a year of batches is ten thousands of files.
    for batch in reversed(list_batches(batches_dir)):
        partition = (batch.topic, batch.generation, batch.partition)
        if batch.name in names or batch.topic not in oldest or partition in old_enough:
            continue
        info = _hourly(batch, entries)
        # A difference is in range, whatever the clocks said; the day a week before the year 1 is not.
        if info.last_time and oldest[batch.topic] - info.last_time > _BACK:
            old_enough.add(partition)
        else:
            before.setdefault(batch.topic, []).append(info)
    return before


def _row(looked_at: Figures) -> dict[str, float | None]:
    """Return a row of figures for JSON, which has no NaN."""
    (row,) = looked_at.frame.to_dict("records")
    return {str(name): None if math.isnan(value) else value for name, value in row.items()}


def _write(path: Path, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
