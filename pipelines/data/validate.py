"""Validate: new batches are held against the suites below ``expectations/``, by Great Expectations.

Only a failed critical check refuses the batches. A check that could not run has failed.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from pipelines.data.batches import Batch, list_batches, read_kind
from pipelines.data.suites import KINDS, STREAM, Entry, Severity, Suite, load_suites
from pipelines.errors import NothingNew

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports modules that Python will drop
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

# What it says at INFO is about itself and would fill the task's log.
logging.getLogger("great_expectations").setLevel(logging.WARNING)

EXAMPLES: Final = 5
"""Most offending values that a report shows of one check."""


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what came of it."""

    suite: str
    expectation: str
    column: str
    """Several are comma-separated; empty for a check of the whole table."""
    severity: Severity
    success: bool
    observed: str
    wanted: str
    unexpected: int
    """Rows that broke it; 0 for a figure over all rows."""
    examples: tuple[str, ...]
    why: str
    do: str

    @property
    def line(self) -> str:
        """The check in one line, for alerts and the shell."""
        where = f"{self.suite}.{self.column}" if self.column else self.suite
        shown = f" ({', '.join(self.examples)})" if self.examples else ""
        return (
            f"{self.severity}: {where}: {self.observed}{shown}; wanted: {self.wanted}. "
            f"Why: {self.why} What to do: {self.do}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all checks of one run."""

    checked_at: datetime
    batches: tuple[str, ...]
    rows: dict[str, int]
    """Rows that each suite was held against."""
    checks: tuple[Check, ...]

    @property
    def success(self) -> bool:
        """Whether no critical check failed."""
        return not self.failed_lines("critical")

    def failed_lines(self, severity: Severity | None = None) -> list[str]:
        """Return one line for each failed check, of one severity or of all, the critical ones first."""
        failed = [check for check in self.checks if not check.success and severity in (None, check.severity)]
        return [check.line for check in sorted(failed, key=lambda check: check.severity)]

    def as_json(self) -> dict[str, Any]:
        """Return what is written to the report's file."""
        return {"success": self.success, **asdict(self), "checked_at": self.checked_at.isoformat()}


def validate(
    batches_dir: Path, names: Sequence[str], suites_dir: Path, report_path: Path, *, now: datetime
) -> Report:
    """Check the batches ``names`` of ``batches_dir`` and write the report as JSON.

    Args:
        batches_dir: folder of the batches.
        names: file names of the batches that are new.
        suites_dir: folder of the suites.
        report_path: appears whole or not at all; an older report there is replaced.
        now: what freshness is measured against; with a zone.

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
    checks: list[Check] = []
    for name, frame in _frames(batches_dir, names, now):
        rows[name] = len(frame)
        checks += _run(suites[name], frame)
    report = Report(now, tuple(names), rows, tuple(checks))
    _write(report_path, report)
    return report


# --- what is looked at ------------------------------------------------------------------------------


def _frames(batches_dir: Path, names: Sequence[str], now: datetime) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (suite, frame) one after the other: together, the rows of two days would fill the memory."""
    for suite, kind in KINDS.items():
        yield suite, read_kind(batches_dir, kind, names)
    chosen = set(names)
    yield STREAM, _stream([batch for batch in list_batches(batches_dir) if batch.name in chosen], now)


def _stream(batches: Sequence[Batch], now: datetime) -> pd.DataFrame:
    """Return one row of what the batches say of themselves; null: a share of nothing, an unknown age."""
    infos = [batch.info() for batch in batches]
    counts = {kind: sum(info.counts[kind] for info in infos) for kind in (*KINDS.values(), "reject")}
    lines = sum(info.lines for info in infos)
    bad_ratings = sum(info.rejects.get("bad-rating", 0) for info in infos)
    duplicates = sum(info.duplicates for info in infos)
    newest = max((info.last_time for info in infos if info.last_time), default=None)
    row = {
        "lines": lines,
        **counts,
        "duplicates": duplicates,
        "reject_share": _share(counts["reject"], lines),
        "rating_reject_share": _share(bad_ratings, counts["rating"] + bad_ratings),
        "duplicates_share": _share(duplicates, lines),
        "newest_age_s": (now - newest).total_seconds() if newest else None,
    }
    return pd.DataFrame([row]).astype("float64")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _prepared(frame: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Return the columns that the suite looks at, numbers in 64 bits.

    Great Expectations copies the frame for every check, and walks narrower numbers one by one in Python.
    """
    looked_at = {column for entry in suite.entries for column in entry.columns}
    kept = frame[[column for column in frame if column in looked_at]]
    integers = [column for column in kept if pd.api.types.is_integer_dtype(kept[column])]
    floats = [column for column in kept if pd.api.types.is_float_dtype(kept[column])]
    return kept.astype(dict.fromkeys(integers, "int64") | dict.fromkeys(floats, "float64"))


# --- running ----------------------------------------------------------------------------------------


def _run(suite: Suite, frame: pd.DataFrame) -> list[Check]:
    trouble = "Great Expectations gave no result"
    try:
        results = _results(suite, _prepared(frame, suite))
    except Exception as error:
        # It raises whatever it likes. Nothing was found out, so nothing has passed.
        results, trouble = {}, f"{type(error).__name__}: {error}"
    failed = {"success": False, "exception_info": {"raised_exception": True, "exception_message": trouble}}
    return [_check(suite.name, entry, results.get(n, failed)) for n, entry in enumerate(suite.entries)]


def _results(suite: Suite, frame: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Return the result of each entry by its number, as Great Expectations writes it down."""
    context = gx.get_context(mode="ephemeral", project_config=_in_memory())
    asset = context.data_sources.add_pandas(suite.name).add_dataframe_asset(suite.name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    result_format = {"result_format": "BASIC", "partial_unexpected_count": EXAMPLES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome: Any = batch.validate(
            gx.ExpectationSuite(suite.name, expectations=suite.expectations), result_format=result_format
        )
    results = [result.to_json_dict() for result in outcome.results]
    return {result["expectation_config"]["meta"]["number"]: result for result in results}


def _in_memory() -> DataContextConfig:
    """Return settings of a context that writes no files, draws no bars and reports to nobody."""
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )


def _check(suite: str, entry: Entry, result: Mapping[str, Any]) -> Check:
    trouble = _trouble(result["exception_info"])
    figures = result.get("result", {})
    return Check(
        suite=suite,
        expectation=entry.type,
        column=", ".join(entry.columns),
        severity=entry.severity,
        success=result["success"] and not trouble,
        observed=f"the check could not run: {trouble}" if trouble else _observed(figures),
        wanted=entry.wanted,
        unexpected=figures.get("unexpected_count", 0),
        examples=tuple(map(_example, figures.get("partial_unexpected_list", [])[:EXAMPLES])),
        why=entry.meta.why,
        do=entry.meta.do,
    )


def _trouble(info: Mapping[str, Any]) -> str:
    """Return the texts of the exceptions; there is one record, or one for each metric that failed."""
    records = [info] if "raised_exception" in info else list(info.values())
    return "; ".join(str(record["exception_message"]) for record in records if record["raised_exception"])


def _observed(figures: Mapping[str, Any]) -> str:
    if "observed_value" in figures:
        return str(figures["observed_value"])
    broken, rows = figures.get("unexpected_count", 0), figures.get("element_count", 0)
    return f"{broken} of {rows} rows" + (f" ({broken / rows:.2%})" if rows else "")


def _example(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={part}" for key, part in value.items())
    return str(value)


def _write(path: Path, report: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
