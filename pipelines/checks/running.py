"""Checks: a suite is held against rows or figures, by Great Expectations.

A check that could not run has failed. One that had no figure to look at has neither failed nor passed.
"""

import gc
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, TypeAlias

import pandas as pd
import pyarrow as pa

from pipelines.checks.figures import Figures
from pipelines.checks.suites import Entry, Severity, Suite

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

Outcome = Literal["passed", "failed", "not looked at"]
Rows: TypeAlias = pa.Table | Figures
"""Rows of batches, text as dictionaries; or figures of them."""

EXAMPLES: Final = 5
"""Most offending values that a report shows of one check."""

_MANY_ROWS: Final = 1_000_000
_NOT_NULL: Final = "expect_column_values_to_not_be_null"


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what came of it."""

    suite: str
    expectation: str
    column: str
    """Several are comma-separated; empty for a check of the whole table."""
    severity: Severity
    outcome: Outcome
    observed: str
    """What was seen; why nothing could be seen, if so."""
    wanted: str
    unexpected: int
    """Rows that broke it; 0 for a figure over all rows."""
    examples: tuple[str, ...]
    why: str
    do: str

    @property
    def where(self) -> str:
        """Suite and column."""
        return f"{self.suite}.{self.column}" if self.column else self.suite

    @property
    def line(self) -> str:
        """The check in one line, for alerts and the shell."""
        shown = f" ({'; '.join(self.examples)})" if self.examples else ""
        return (
            f"{self.severity}: {self.where}: {self.observed}{shown}; wanted: {self.wanted}. "
            f"Why: {self.why} What to do: {self.do}"
        )


def run(suite: Suite, rows: Rows) -> list[Check]:
    """Hold every expectation of ``suite`` against rows of batches or against figures."""
    silent = {number: why for number, entry in enumerate(suite.entries) if (why := _silence(entry, rows))}
    results: dict[int, dict[str, Any]] = {}
    for columns, numbers in _groups(suite, silent, rows).items():
        try:
            found = _results(suite, numbers, *_prepared(rows, columns))
            trouble = "Great Expectations gave no result"
        except Exception as error:
            # It raises whatever it likes. Nothing was found out, so nothing has passed.
            found, trouble = {}, f"{type(error).__name__}: {error}"
        results |= dict.fromkeys(numbers, _no_result(trouble)) | found
        if not isinstance(rows, Figures) and len(rows) >= _MANY_ROWS:
            # What it leaves behind refers to itself in circles and holds copies of the frame.
            gc.collect()
    return [
        _not_looked_at(suite.name, entry, silent[number])
        if number in silent
        else _check(suite.name, entry, results[number], _single(rows, entry))
        for number, entry in enumerate(suite.entries)
    ]


def _silence(entry: Entry, rows: Rows) -> str:
    """Return why there is no figure that ``entry`` could look at; empty when there is one."""
    if not isinstance(rows, Figures) or not entry.columns or entry.type == _NOT_NULL:
        return ""
    if rows.frame.empty:
        return rows.unknown[""]
    frame = rows.frame
    nothing = [column for column in entry.columns if column in frame and frame[column].isna().all()]
    return rows.unknown.get(nothing[0], "there is nothing that it could be told of") if nothing else ""


def _groups(suite: Suite, silent: Mapping[int, str], rows: Rows) -> dict[tuple[str, ...], list[int]]:
    """Return the numbers of the expectations that are to run, by the columns of the frame they get.

    Great Expectations copies its frame again and again: all columns of the rows of two days at once would
    fill the memory. Figures are few.
    """
    numbers = [number for number in range(len(suite.entries)) if number not in silent]
    if isinstance(rows, Figures):
        return {(): numbers} if numbers else {}
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in numbers:
        groups.setdefault(tuple(suite.entries[number].columns), []).append(number)
    return groups


def _prepared(rows: Rows, columns: tuple[str, ...]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return columns as a frame, and which of them say what row it is.

    Numbers are in 64 bits: Great Expectations would walk narrower ones one by one in Python.
    """
    if isinstance(rows, Figures):
        frame, keys = rows.frame, rows.keys
    else:
        frame, keys = rows.select(list(columns)).to_pandas() if columns else _as_long(rows), ()
    integers = [column for column in frame if pd.api.types.is_integer_dtype(frame[column])]
    floats = [column for column in frame if pd.api.types.is_float_dtype(frame[column])]
    return frame.astype(dict.fromkeys(integers, "int64") | dict.fromkeys(floats, "float64")), keys


def _as_long(rows: pa.Table) -> pd.DataFrame:
    """Return a frame without columns, which has rows all the same."""
    return pd.DataFrame(index=range(len(rows)))


def _results(
    suite: Suite, numbers: list[int], frame: pd.DataFrame, keys: tuple[str, ...]
) -> dict[int, dict[str, Any]]:
    """Return the result of each entry by its number, as Great Expectations writes it down."""
    asset = _asset()
    batch = asset.get_batch(asset.build_batch_request({"dataframe": frame}))
    result_format: dict[str, Any] = {"result_format": "BASIC", "partial_unexpected_count": EXAMPLES}
    if keys:
        result_format |= {"result_format": "SUMMARY", "unexpected_index_column_names": list(keys)}
    expectations = [suite.expectations[number] for number in numbers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome: Any = batch.validate(
            gx.ExpectationSuite(suite.name, expectations=expectations), result_format=result_format
        )
    results = [result.to_json_dict() for result in outcome.results]
    return {result["expectation_config"]["meta"]["number"]: result for result in results}


@cache
def _asset() -> Any:
    """Return where Great Expectations takes frames from: it lets go of one when it gets the next.

    To set it up takes longer than most checks.
    """
    context = gx.get_context(mode="ephemeral", project_config=_in_memory())
    return context.data_sources.add_pandas("batches").add_dataframe_asset("rows")


def _in_memory() -> DataContextConfig:
    """Return settings of a context that writes no files, draws no bars and reports to nobody."""
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )


def _single(rows: Rows, entry: Entry) -> str:
    """Return the one value that a check of one column of one row looks at; empty when it is none such."""
    if not isinstance(rows, Figures) or rows.keys or len(entry.columns) != 1:
        return ""
    values = rows.frame.filter(entry.columns).to_numpy().ravel()
    return f"{values[0]:.6g}" if len(values) == 1 else ""


def _check(suite: str, entry: Entry, result: Mapping[str, Any], single: str) -> Check:
    trouble = _trouble(result["exception_info"])
    figures = result.get("result", {})
    passed = result["success"] and not trouble
    return Check(
        suite=suite,
        expectation=entry.type,
        column=", ".join(entry.columns),
        severity=entry.severity,
        outcome="passed" if passed else "failed",
        observed=f"the check could not run: {trouble}" if trouble else single or _observed(figures),
        wanted=entry.wanted,
        unexpected=figures.get("unexpected_count", 0),
        examples=() if single else _examples(figures),
        why=entry.meta.why,
        do=entry.meta.do,
    )


def _not_looked_at(suite: str, entry: Entry, why: str) -> Check:
    return Check(
        suite=suite,
        expectation=entry.type,
        column=", ".join(entry.columns),
        severity=entry.severity,
        outcome="not looked at",
        observed=why,
        wanted=entry.wanted,
        unexpected=0,
        examples=(),
        why=entry.meta.why,
        do=entry.meta.do,
    )


def _no_result(trouble: str) -> dict[str, Any]:
    """Return what Great Expectations says of a check that raised."""
    info = {"raised_exception": True, "exception_message": trouble}
    return {"success": False, "exception_info": info}


def _trouble(info: Mapping[str, Any]) -> str:
    """Return the texts of the exceptions; there is one record, or one for each metric that failed."""
    records = [info] if "raised_exception" in info else list(info.values())
    return "; ".join(str(record["exception_message"]) for record in records if record["raised_exception"])


def _observed(figures: Mapping[str, Any]) -> str:
    if "observed_value" in figures:
        return str(figures["observed_value"])
    broken, rows = figures.get("unexpected_count", 0), figures.get("element_count", 0)
    return f"{broken} of {rows} rows" + (f" ({broken / rows:.2%})" if rows else "")


def _examples(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a few of the offending values, with what says which row each one is of, where that is known."""
    offending = figures.get("partial_unexpected_index_list") or figures.get("partial_unexpected_list", [])
    return tuple(map(_example, offending[:EXAMPLES]))


def _example(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_example(part)}" for key, part in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
