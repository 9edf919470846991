"""The list of every user, laid out at export: many rows of scores at once, as a sparse product.

A list is what ``Model.recommend`` would compute for the user, to the last place: all sums are exact, so that
the order in which they are formed does not matter.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from os import sched_getaffinity

import numpy as np
from scipy.sparse import csr_matrix, hstack, identity

from pipelines.model.arrays import LIST_LENGTH, Small
from pipelines.model.ids import Rows
from pipelines.model.recommender import rows_of, sort_keys

_PRODUCTS_AT_ONCE = 4_000_000
"""Scores that one thread holds in memory."""


def lay_out(seen: csr_matrix, neighbours: csr_matrix, trending: Small, length: int = LIST_LENGTH) -> Small:
    """Return the best ``length`` movie rows for every user, as ``Arrays.user_lists`` wants them.

    Args:
        seen: users x movies, weights of the evidence.
        neighbours: (movies + 1) x movies, what each movie says of the others; the last row is everybody's.
        trending: movie rows that complete a short list, before the other movies.
        length: places of a list.
    """
    n_movies = seen.shape[1]
    # A movie that was seen speaks against itself, louder than all others can speak for it.
    against = identity(n_movies, format="csr") * -(2.0**40)
    against.resize(n_movies + 1, n_movies)
    said = (neighbours + against).tocsr()
    speaks = np.diff(neighbours.indptr)[:-1] > 0
    lists = np.full((seen.shape[0], length), -1, dtype=np.int32)

    def fill(part: Rows) -> None:
        lists[part] = _best(seen[part], said, speaks, length)

    with ThreadPoolExecutor(_cores()) as pool:
        list(pool.map(fill, _parts(seen, np.diff(neighbours.indptr))))
    _complete(lists, seen, trending)
    return lists


def _cores() -> int:
    return len(sched_getaffinity(0))


def _parts(seen: csr_matrix, counts: Rows) -> Iterator[Rows]:
    """Yield user rows that need about the same work each, with users of like work together."""
    # Padded to its longest row, a part must not mix short rows with long ones.
    work = np.minimum(seen.astype(bool) @ counts[:-1] + counts[-1] + 1, seen.shape[1])
    order = np.argsort(work, kind="stable")
    shares = np.cumsum(work[order]) // _PRODUCTS_AT_ONCE
    yield from np.split(order, np.flatnonzero(np.diff(shares)) + 1)


def _best(seen: csr_matrix, said: csr_matrix, speaks: Rows, length: int) -> Small:
    everybody = csr_matrix(np.ones((seen.shape[0], 1)))
    scores = hstack([seen, everybody], format="csr") @ said
    keys = _padded_keys(scores)
    if keys.shape[1] > length:
        keys = np.partition(keys, keys.shape[1] - length, axis=1)[:, -length:]
    keys = np.sort(keys, axis=1)[:, ::-1]
    lists = np.where(keys >= 0, rows_of(keys), -1)
    # Whose movies say nothing has no list of their own.
    lists[(seen.astype(bool) @ speaks) == 0] = -1
    padding = np.full((len(lists), length - lists.shape[1]), -1)
    return np.hstack([lists, padding]).astype(np.int32)


def _padded_keys(scores: csr_matrix) -> Rows:
    """Return the sort keys of the scores above zero, one row a user, -1 where a row has no more."""
    good = np.flatnonzero(scores.data > 0)
    users = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))[good]
    keys = sort_keys(scores.data[good], scores.indices[good])
    counts = np.bincount(users, minlength=scores.shape[0])
    places = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.full((scores.shape[0], counts.max(initial=1)), -1, dtype=np.int64)
    padded[users, places] = keys
    return padded


def _complete(lists: Small, seen: csr_matrix, trending: Small) -> None:
    """Complete the lists that have begun and are short."""
    length, n_movies = lists.shape[1], seen.shape[1]
    for user in np.flatnonzero((lists[:, 0] >= 0) & (lists[:, -1] < 0)):
        own = lists[user][lists[user] >= 0]
        out = set(own.tolist()) | set(seen.indices[seen.indptr[user] : seen.indptr[user + 1]].tolist())
        more = (row for rows in (trending.tolist(), range(n_movies)) for row in rows)
        fill: list[int] = []
        for row in more:
            if len(own) + len(fill) == length:
                break
            if row not in out:
                out.add(row)
                fill.append(row)
        lists[user, len(own) : len(own) + len(fill)] = fill
