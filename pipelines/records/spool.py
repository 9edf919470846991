"""The spool as its readers see it: which files there are, whose they are, and their lines.

A worker of a replica writes ``<replica>-<pid>-<start, ns>.jsonl`` and nobody else does; a file that is
finished is renamed to ``….done``. A line is complete when its line end is there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipelines.writers import has_writer

_NAME = re.compile(r"(?P<key>.+-[0-9]+-[0-9]+)\.(?P<suffix>jsonl|done)")


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """One file that a replica's worker writes or wrote."""

    path: Path
    key: str
    """Its name without the suffix, which changes when the file is sealed."""
    sealed: bool

    def open(self) -> BinaryIO:
        """Open the file to read it.

        Raises:
            FileNotFoundError: it was sealed or deleted since the folder was listed.
        """
        return self.path.open("rb")

    def is_finished(self) -> bool:
        """Return whether nobody will write to the file any more; in doubt, no."""
        return self.sealed or not has_writer(self.path)


def spool_files(folder: Path) -> list[SpoolFile]:
    """Return the spool files of ``folder``, sorted by name; other files, and no folder, are passed over."""
    matches = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.glob("*"))]
    return [SpoolFile(path, match["key"], match["suffix"] == "done") for path, match in matches if match]


def chunks(file: BinaryIO, start: int, *, most_bytes: int, finished: bool) -> Iterator[tuple[bytes, int]]:
    """Yield (whole lines, offset after them) from byte ``start`` on, at most ``most_bytes`` at a time.

    A last line without its end comes only when the file is ``finished``. A line longer than ``most_bytes``
    comes in pieces.
    """
    file.seek(start)
    while data := file.read(most_bytes):
        length = data.rfind(b"\n") + 1
        if length == 0:
            if len(data) < most_bytes and not finished:
                return
            length = len(data)
        start += length
        yield data[:length], start
        file.seek(start)
