"""Suites: the JSON files below ``expectations/``, read and checked before anything is run."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports modules that Python will drop
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

Severity = Literal["critical", "warning"]

KINDS: Final = {"watches": "watch", "ratings": "rating", "requests": "request"}
"""Suites over the rows of one kind of event."""

FIGURES: Final = ("movies", "users", "drift", "stream", "rejects", "volume")
"""Suites over what many rows add up to, see ``figures``."""


class Meta(BaseModel):
    """Why an expectation exists, and what to do when it fails."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    why: str = Field(min_length=1)
    do: str = Field(min_length=1)


class Entry(BaseModel):
    """One expectation of a suite, in the words of Great Expectations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    kwargs: dict[str, Any]
    severity: Severity
    meta: Meta

    @property
    def columns(self) -> list[str]:
        """Columns that are looked at; none for a check of the whole table."""
        single = [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]
        return [*single, *self.kwargs.get("column_list", [])]

    @property
    def wanted(self) -> str:
        """The expectation in words, as in ``column values to be between (min_value 1, max_value 5)``."""
        words = self.type.removeprefix("expect_").replace("_", " ")
        limits = ", ".join(f"{key} {value}" for key, value in self.kwargs.items() if "column" not in key)
        return f"{words} ({limits})" if limits else words

    def build(self, number: int) -> Expectation:
        """Return what Great Expectations runs; ``number`` comes back in the meta of its result.

        Raises:
            GreatExpectationsError: there is no such type.
            ValueError: kwargs are missing, unknown or of a wrong type.
        """
        return ExpectationConfiguration(
            type=self.type,
            kwargs=self.kwargs,
            severity=FailureSeverity(self.severity),
            meta={"number": number},
        ).to_domain_obj()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expectations: list[Entry] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Suite:
    """One file: its entries, and the same as Great Expectations runs them."""

    name: str
    entries: list[Entry]
    expectations: list[Expectation]


def load_suites(folder: Path) -> dict[str, Suite]:
    """Read the suites of ``folder``.

    Raises:
        DataError: a file is missing, unknown or malformed.
    """
    wanted = [*KINDS, *FIGURES]
    there = sorted(path.stem for path in folder.glob("*.json"))
    if there != sorted(wanted):
        raise DataError(
            f"{folder} has the suites {there}, wanted are {sorted(wanted)}; put back what is missing, "
            "and take away what nothing would run"
        )
    return {name: _load(folder / f"{name}.json") for name in wanted}


def _load(path: Path) -> Suite:
    where = str(path)
    try:
        entries = _File.model_validate_json(path.read_bytes()).expectations
        expectations = []
        for number, entry in enumerate(entries):
            where = f"expectations[{number}] ({entry.type}) of {path}"
            expectations.append(entry.build(number))
    except (ValidationError, GreatExpectationsError, ValueError, TypeError) as error:
        raise DataError(
            f"{where} is malformed: {error}; wanted are a type of Great Expectations, its kwargs, a severity "
            "(critical or warning) and meta with why and do; see expectations/README.md"
        ) from error
    return Suite(path.stem, entries, expectations)
