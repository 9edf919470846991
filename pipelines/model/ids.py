"""Raw ids (text) to rows of arrays and back, without a Python object for each id."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import ModelError

MAX_ID_BYTES = 1_020
"""Longest id as UTF-8: 255 characters of four bytes. Tables are as wide as their longest id."""

Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.bytes_]


class IdTable:
    """The ids of one kind, users or movies; their place in the table is their row."""

    def __init__(self, ids: Bytes, order: Rows) -> None:
        """Read ``ids`` (n,) and ``order`` (n,), the rows that sort them."""
        self._ids = ids
        self._order = order

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, texts: Sequence[str]) -> Rows:
        """Return the row of each id, -1 for an id that is not here."""
        # A key of the table's own width: numpy would copy the whole table to compare with a wider one.
        keys = np.array([self._key(text) for text in texts], dtype=self._ids.dtype)
        places = np.searchsorted(self._ids, keys, sorter=self._order)
        rows = self._order[np.minimum(places, len(self) - 1)]
        return np.where(self._ids[rows] == keys, rows, -1)

    def row(self, text: str) -> int:
        """Return the row of one id, -1 if it is not here: half the time of :meth:`rows`."""
        key = np.array(self._key(text), dtype=self._ids.dtype)
        place = int(self._ids.searchsorted(key, sorter=self._order))
        row = self._order[min(place, len(self) - 1)]
        return int(row) if self._ids[row] == key else -1

    def texts(self, rows: npt.NDArray[np.integer[Any]]) -> list[str]:
        """Return the id at each row."""
        return [raw.decode() for raw in self._ids[rows].tolist()]

    def _key(self, text: str) -> bytes:
        raw = text.encode("utf-8", "surrogatepass")
        # NUL pads the table, so "a\0" would be found as "a"; no stored id holds one, and none is empty.
        return b"" if len(raw) > self._ids.dtype.itemsize or b"\0" in raw else raw


def id_table(ids: Iterable[str]) -> tuple[Bytes, Rows]:
    """Lay out ``ids`` (distinct, in row order) as the two arrays of an :class:`IdTable`.

    Raises:
        ModelError: an id is empty, too long or holds a NUL, which pads the table.
    """
    raw = [text.encode() for text in ids]
    for one in raw:
        if not one or b"\0" in one or len(one) > MAX_ID_BYTES:
            raise ModelError(
                f"the id {one[:40]!r} ({len(one)} bytes) cannot be stored: wanted 1 to {MAX_ID_BYTES} bytes "
                "of UTF-8 without NUL; correct the ratings it comes from"
            )
    table: Bytes = np.array(raw, dtype=np.bytes_)
    return table, np.argsort(table, kind="stable").astype(np.int64)
