"""Lines: a stretch of a stream in one buffer, so that work on it is work on arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Lines:
    """Numbered lines; both arrays have one length."""

    offsets: np.ndarray[Any, np.dtype[np.int64]]
    """Ascending, maybe with gaps."""
    values: pa.BinaryArray
    r"""Bytes as they arrived; a line end (``\n`` or ``\r\n``) may still be there."""

    @classmethod
    def of(cls, offsets: Sequence[int], values: Sequence[bytes]) -> Self:
        """Put single lines into one buffer, which is five times faster than ``pa.array`` of them."""
        ends = np.zeros(len(values) + 1, dtype=np.int32)
        np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=ends[1:])
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
        column = pa.BinaryArray.from_buffers(pa.binary(), len(values), buffers)
        return cls(np.fromiter(offsets, np.int64, len(offsets)), column)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, part: slice) -> Self:
        return type(self)(self.offsets[part], self.values[part])
