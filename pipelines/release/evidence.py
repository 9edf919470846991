"""Evidence that may be looked at as often as one likes: sequential tests and confidence sequences.

An e-value is what a fair bet against a claim has earned so far: while the claim is true its mean is 1 at
most, at whatever look one stops, and so it ever reaches 1 / alpha with a chance of alpha at most (J. Ville,
Étude critique de la notion de collectif, 1939). Looking every minute for twelve hours costs nothing. What is
used of it here:

- Shares: a mixture of the bets on all larger shares, weighed by a beta distribution (H. Robbins, Statistical
  methods related to the law of the iterated logarithm, Annals of Mathematical Statistics 41, 1970; in this
  form S. R. Howard, A. Ramdas, J. McAuliffe and J. Sekhon, Time-uniform, nonparametric, nonasymptotic
  confidence sequences, Annals of Statistics 49, 2021, propositions 6 and 7).
- Counts of two arms: given all of them, the part of one arm is a binomial share (M. Lindon and A. Malek,
  Anytime-valid inference for multinomial count data, NeurIPS 2022).
- Quantiles: a claim about a quantile is one about the share of answers beyond it (S. R. Howard and A. Ramdas,
  Sequential estimation of quantiles with applications to A/B testing and best-arm identification, Bernoulli
  28, 2022). M. Lindon, C. Sanden and V. Shirikian watch canaries with both (Rapid regression detection in
  software deployments through sequential testing, KDD 2022).
- Means, and shares that differ by a margin: Robbins's normal mixture (proposition 5 of Howard et al.) with
  the variance that was observed, which holds once there are enough answers (I. Waudby-Smith, D. Arbour,
  R. Sinha, E. H. Kennedy and A. Ramdas, Time-uniform central limit theory and asymptotic confidence
  sequences, Annals of Statistics 52, 2024).

All functions go element by element over arrays. Counts may have fractions: they are what clustered answers
are worth in independent ones.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numpy as np
from scipy import special

from pipelines.release.figures import Doubles, Flags, Number

POWER: Final = 0.8
"""With how many answers a rule says that it has enough: those that show an effect this often."""
_POWER_SIGMAS: Final[float] = float(special.ndtri(POWER))
_SIGHT: Final = 200.0
"""Independent answers at which the normal mixture sees sharpest; a few times more or less cost little."""
_DECIDED: Final = 30.0
"""Standard errors beyond which more of them change nothing."""
_SIZES: Final[Doubles] = np.geomspace(1.0, 1e8, 2_000)
_NODES: Final[Doubles] = np.geomspace(1.0, 1e8, 240)
"""Sizes for which least shares are computed; between them they hardly bend."""
_UNREACHABLE: Final = 2.0


def log_e_more(k: Number, n: Number, p: Number) -> Number:
    """Return the log e-value of k of n against every share up to p; 0 < p < 1.

    The bets are spread over the shares above p on the scale of p, or of 1 - p where that is smaller: by the
    part above p of the beta distribution of mean p that has one parameter 1.
    """
    a, b = _prior(p)
    with np.errstate(divide="ignore"):
        log_e: Number = _at_most(k, n, p) + np.log(special.betaincc(a + k, b + n - k, p))
    return log_e


def shows_more(k: Number, n: Number, p: Number, alpha: float) -> Flags:
    """Return whether k of n is evidence of more than p at ``alpha``; sums are spared where it cannot be."""
    enough = -np.log(alpha)
    k, n, p = np.broadcast_arrays(k, n, p)
    shown = np.asarray((k > n * p) & (_at_most(k, n, p) >= enough))
    shown[shown] = log_e_more(k[shown], n[shown], p[shown]) >= enough
    return shown


def log_e_other(k: Number, n: Number, p: Number) -> Number:
    """Return the log e-value of k of n against the share p, on both sides; 0 < p < 1."""
    return _log_mixture(k, n, p)


def log_e_above(sigmas: Number, n: Number) -> Number:
    """Return the log e-value of an estimate so many standard errors above all that is claimed.

    Args:
        sigmas: (estimate - limit) / standard error; may be infinite.
        n: independent answers that the estimate rests on.
    """
    shrunk = np.clip(sigmas, -_DECIDED, _DECIDED) * np.sqrt(n / (n + _SIGHT))
    log_e: Number = 0.5 * np.log(4 * _SIGHT / (n + _SIGHT)) + shrunk**2 / 2 + special.log_ndtr(shrunk)
    return log_e


def quantile_bounds(n: Number, p: float, alpha: float) -> tuple[Number, Number]:
    """Return the probabilities whose order statistics bound the p-quantile of n answers from both sides.

    Each side is wrong with a chance of ``alpha`` over all looks. Below 0 or above 1: no bound yet.
    """
    return 1 - least_share(n, 1 - p, alpha), least_share(n, p, alpha)


def least_share(n: Number, p: float, alpha: float) -> Number:
    """Return the least share of n answers that is evidence of more than p at ``alpha``; 2 if none is."""
    return np.interp(np.log(np.maximum(n, 1.0)), np.log(_NODES), _least_shares(p, alpha))[()]


@lru_cache
def _least_shares(p: float, alpha: float) -> Doubles:
    """Solve :func:`log_e_more` for the share at each of the nodes; it grows with the share."""
    low, high = np.full(len(_NODES), p), np.ones(len(_NODES))
    enough = -np.log(alpha)
    reachable = log_e_more(_NODES, _NODES, p) >= enough
    for _ in range(40):
        middle = (low + high) / 2
        shown = log_e_more(middle * _NODES, _NODES, p) >= enough
        low, high = np.where(shown, low, middle), np.where(shown, middle, high)
    shares: Doubles = np.where(reachable, high, _UNREACHABLE)
    return shares


def least_size(shown: Callable[[Doubles], Flags]) -> float:
    """Return the least size from which on ``shown`` (asked for many sizes at once) is true, or infinity."""
    missed = np.flatnonzero(~shown(_SIZES))
    if not len(missed):
        return 1.0
    after = int(missed[-1]) + 1
    return float(np.ceil(_SIZES[after])) if after < len(_SIZES) else np.inf


def shortfall(k: Doubles, n: Doubles) -> Doubles:
    """Return the count that a binomial count of mean k of n exceeds with a chance of :data:`POWER`."""
    return np.maximum(0.0, k - _POWER_SIGMAS * np.sqrt(k * (1 - k / n)))


def sigmas_short(sigmas: Doubles) -> Doubles:
    """Return what an estimate expected that many standard errors off exceeds with that same chance."""
    return sigmas - _POWER_SIGMAS


def _at_most(k: Number, n: Number, p: Number) -> Number:
    """Return what :func:`log_e_more` cannot exceed: as if the bets on shares up to p had earned nothing."""
    p = np.asarray(p)
    a, b = _prior(p)
    above: Number = np.where(p < 0.5, b * np.log1p(-p), np.log1p(-(p**a)))
    return _log_mixture(k, n, p) - above


def _prior(p: Number) -> tuple[Any, Any]:
    odds = p / (1 - p)
    return np.maximum(1.0, odds), np.maximum(1.0, 1 / odds)


def _log_mixture(k: Number, n: Number, p: Number) -> Number:
    a, b = _prior(p)
    mixed: Number = (
        special.betaln(a + k, b + n - k) - special.betaln(a, b) - k * np.log(p) - (n - k) * np.log1p(-p)
    )
    return mixed
