"""What chance explains: differences between two samples, less what two samples of one world differ by.

A capture of a few hundred ratings never has the shares of the millions before it. Each figure here is
therefore a difference that is left once the most that chance plausibly gives is taken away: 0 says "no more
than chance", whatever the sizes, and with growing sizes the figure becomes the plain difference.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

SIGMAS: Final = 4.0
"""What lies further out happens by chance once in 15,000 times."""
_ODDS: Final = 1e-4
"""Chance with which :func:`divergence` is more than 0 though nothing has changed."""


def largest_move(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    """Return by how much the share that moved most has moved, beyond chance: the L-infinity distance, 0 to 1.

    ``before`` and ``after`` are counts of independent observations in the same categories. The noise of each
    difference is that of the test of two proportions: sqrt(p (1 - p) (1/n + 1/m)) with p of both together.
    """
    n, m = before.sum(), after.sum()
    pooled = (before + after) / (n + m)
    moved = np.abs(before / n - after / m)
    return float(np.max(moved - SIGMAS * np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)), initial=0.0))


def divergence(before: Doubles, after: Doubles, n: float, m: float) -> float:
    """Return the Jensen-Shannon divergence of two sets of shares in bits, beyond chance, 0 to 1.

    The divergence (J. Lin, IEEE Trans. Inf. Theory 37, 1991) is 0 for equal shares and 1 for shares that have
    no category in common. Of samples of ``n`` and ``m`` observations of one world, 8 ln 2 / (1/n + 1/m) times
    the divergence follows chi-squared with one degree of freedom less than there are categories; how far that
    reaches is bounded by B. Laurent and P. Massart, Annals of Statistics 28, 2000, lemma 1.

    Args:
        before: shares, adding up to 1.
        after: shares in the same categories.
        n: how many independent observations ``before`` rests on.
        m: the same of ``after``.
    """
    middle = (before + after) / 2
    there = middle > 0
    apart = (_relative(before[there], middle[there]) + _relative(after[there], middle[there])) / 2
    freedom, t = int(there.sum()) - 1, -np.log(_ODDS)
    reach = freedom + 2 * np.sqrt(freedom * t) + 2 * t
    return float(max(0.0, apart - reach * (1 / n + 1 / m) / (8 * np.log(2))))


def excess(share: float, expected: float, n: float, m: float) -> float:
    """Return how much more ``share`` (of n observations) is than ``expected`` (from m), beyond chance."""
    pooled = (share * n + expected * m) / (n + m)
    return float(max(0.0, share - expected - SIGMAS * np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))))


def _relative(shares: Doubles, to: Doubles) -> float:
    """Return the Kullback-Leibler divergence in bits; a share of 0 adds nothing."""
    there = shares > 0
    return float((shares[there] * np.log2(shares[there] / to[there])).sum())
