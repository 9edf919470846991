"""What a look at a release measures: counts, times and users of both arms, and what Prometheus says of them.

A number may be a plain one (one look) or an array (many looks at once): the judge treats both alike, and the
simulation of its error rates goes through the very code that judges a release.

Answers are not independent: a user asks again, and a minute that is slow is slow for everybody. Each count
therefore knows how its answers cluster, by user and by block of time, and how many independent answers it is
worth: its size divided by the design effect (Kish, Survey Sampling, 1965; for counts J. N. K. Rao and A. J.
Scott, A simple method for the analysis of clustered binary data, Biometrics 48, 1992; for two ways of
clustering at once A. C. Cameron, J. B. Gelbach and D. L. Miller, Robust inference with multiway clustering,
Journal of Business & Economic Statistics 29, 2011).
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from pipelines.errors import MeasurementError

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_ROUNDING: Final = 1e-12
Number = float | Doubles
"""One look, or an array of looks."""

GOOD: Final = 200
"""Status of a good answer."""
BLOCK_S: Final = 60.0
"""Length of a block of time."""
GRID: Final[Doubles] = np.union1d([0.5, 0.95, 0.99, 1.0], np.round(1 - 0.2 * 0.9 ** np.arange(73), 6))
"""Probabilities of the order statistics that are kept: 0.8 to 0.9999, each leaving 10 % less above it."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Sums over clusters (users, or blocks of time) that have x in n answers each."""

    xx: Number
    """Sum of x squared."""
    xn: Number
    """Sum of x times n."""
    nn: Number
    """Sum of n squared."""

    def design_effect(self, mean: Number, variance: Number) -> Number:
        """Return by how much clustering multiplies the variance of the mean of x over all n; 1 at least.

        ``variance`` is that of independent answers, times their number: n p (1 - p) for a share p.
        """
        spread = self.xx - 2 * mean * self.xn + mean**2 * self.nn
        return np.maximum(1.0, ratio(spread, variance, without=1.0))


@dataclass(frozen=True, slots=True)
class Count:
    """So many answers of all that were looked at."""

    k: Number
    n: Number
    users: Clusters
    blocks: Clusters

    @property
    def share(self) -> Number:
        """Share of the answers that are such, 0 to 1; 0 without any."""
        return ratio(self.k, self.n, without=0.0)

    @property
    def users_effect(self) -> Number:
        """How many answers would weigh as much as one independent answer, were all blocks of time alike."""
        return self.users.design_effect(self.share, self._variance)

    @property
    def design_effect(self) -> Number:
        """How many answers weigh as much as one independent answer; 1 at least."""
        return self.users_effect + self.blocks.design_effect(self.share, self._variance) - 1

    @property
    def _variance(self) -> Number:
        return self.n * self.share * (1 - self.share)

    @property
    def worth(self) -> tuple[Number, Number]:
        """What ``k`` and ``n`` are worth in independent answers."""
        effect = self.design_effect
        return self.k / effect, self.n / effect


@dataclass(frozen=True, slots=True)
class Mean:
    """Response times of so many answers; x of a cluster is its milliseconds added up."""

    n: Number
    total: Number
    """Milliseconds."""
    squares: Number
    """Squared milliseconds of each answer, added up."""
    users: Clusters
    blocks: Clusters

    @property
    def mean(self) -> Number:
        """Milliseconds; NaN without any answer."""
        return ratio(self.total, self.n, without=np.nan)

    @property
    def variance(self) -> Number:
        """Squared milliseconds; NaN without any answer, 0 where only rounding tells them apart."""
        variance = ratio(self.squares, self.n, without=np.nan) - self.mean**2
        return np.where(variance < _ROUNDING * self.mean**2, 0.0, variance)[()]

    @property
    def design_effect(self) -> Number:
        """How many answers weigh as much as one independent answer; 1 at least."""
        variance = self.n * self.variance
        return (
            self.users.design_effect(self.mean, variance) + self.blocks.design_effect(self.mean, variance) - 1
        )

    @property
    def effective_n(self) -> Number:
        """What ``n`` is worth in independent answers."""
        return self.n / self.design_effect


class Bounds(Protocol):
    """Order statistics of response times."""

    def at(self, probability: Number, side: Literal["lower", "upper"]) -> Number:
        """Return the order statistic (ms) at ``probability``, or one further out on that side."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Exact order statistics: the smallest time that at least that share of the answers did not exceed."""

    probabilities: Doubles
    """Ascending."""
    values_ms: Doubles
    """Aligned with ``probabilities`` on the last axis."""

    @classmethod
    def of(cls, times_ms: Doubles) -> Self:
        """Take the order statistics of some answers on the grid."""
        if not len(times_ms):
            return cls(GRID, np.full(len(GRID), np.nan))
        return cls(GRID, np.quantile(times_ms, GRID, method="inverted_cdf"))

    def at(self, probability: Number, side: Literal["lower", "upper"]) -> Number:
        """Return the order statistic (ms) at ``probability``, or the next one kept on that side.

        Out of reach is 0 below and infinity above, and so is everything without any answer.
        """
        if side == "lower":
            place = np.searchsorted(self.probabilities, probability, side="right") - 1
            out, beyond = place < 0, 0.0
        else:
            place = np.searchsorted(self.probabilities, probability, side="left")
            out, beyond = place >= len(self.probabilities), np.inf
        inside = np.clip(place, 0, len(self.probabilities) - 1)
        inside = np.broadcast_to(inside, self.values_ms.shape[:-1])[..., np.newaxis]
        found = np.take_along_axis(self.values_ms, inside, axis=-1)[..., 0]
        return np.where(out | np.isnan(found), beyond, found)[()]


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """What one arm did in its window. Good answers are those with the status `GOOD`."""

    users: Number
    """Distinct users."""
    answers: Number
    failed: Count
    """Of all answers; everything below is of the good ones."""
    below: Count
    """Answers from a rung below the personal one."""
    short: Count
    """Lists with fewer movies than were asked for."""
    slower_p95: Count
    """Slower than this arm's own p95: tells how the slow answers cluster."""
    slower_p99: Count
    """Slower than this arm's own p99."""
    time: Mean
    quantiles: Bounds
    wrong_version: Number
    """Answers of this arm that came from another version than they should."""


@dataclass(frozen=True, slots=True)
class Users:
    """Distinct users of the window."""

    canary: Number
    """Met the canary."""
    total: Number
    mixed: Number
    """Met the canary, but stable more often: the split does not hold them."""


@dataclass(frozen=True, slots=True)
class Scraped:
    """What Prometheus says of the candidate in the same window; increases may have fractions."""

    answers: Number
    good: Number
    mean_ms: Number
    """Of the good answers; NaN without any."""
    up: bool | npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One look at the candidate and at what it is compared with."""

    elapsed_s: Number
    """Time since the window began."""
    canary: ArmFigures
    stable: ArmFigures
    users: Users
    scraped: Scraped | None
    """None: Prometheus did not answer, see ``trouble``."""
    trouble: str = ""
    """Why an instrument did not answer."""

    def as_row(self) -> dict[str, Any]:
        """Return what the ledger keeps: plain numbers, None for those that are not finite."""
        row: dict[str, Any] = _plain(asdict(self))
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Read a look back from its row.

        Raises:
            MeasurementError: the row is not of this form, as those of older releases.
        """
        try:
            return cls(
                elapsed_s=row["elapsed_s"],
                canary=_arm(row["canary"]),
                stable=_arm(row["stable"]),
                users=Users(**row["users"]),
                scraped=_scraped(row["scraped"]),
                trouble=row["trouble"],
            )
        except (KeyError, TypeError) as error:
            raise MeasurementError(
                f"this look holds no figures that can be judged again ({type(error).__name__}: {error}); "
                "looks of releases before the figures of both arms were kept cannot be"
            ) from error


def ratio(above: Number, below: Number, *, without: float) -> Number:
    """Return ``above / below``, and ``without`` where ``below`` is not positive."""
    positive = np.asarray(below) > 0
    return np.where(positive, above / np.where(positive, below, 1.0), without)[()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _arm(row: dict[str, Any]) -> ArmFigures:
    counts = ("failed", "below", "short", "slower_p95", "slower_p99")
    return ArmFigures(
        users=row["users"],
        answers=row["answers"],
        **{name: Count(**row[name] | _clusters(row[name])) for name in counts},
        time=Mean(**row["time"] | _clusters(row["time"])),
        quantiles=Quantiles(
            np.array(row["quantiles"]["probabilities"]),
            np.array([_number(value) for value in row["quantiles"]["values_ms"]]),
        ),
        wrong_version=row["wrong_version"],
    )


def _clusters(row: dict[str, Any]) -> dict[str, Clusters]:
    return {"users": Clusters(**row["users"]), "blocks": Clusters(**row["blocks"])}


def _scraped(row: dict[str, Any] | None) -> Scraped | None:
    return None if row is None else Scraped(**row | {"mean_ms": _number(row["mean_ms"])})
