"""Receipts: one JSON line for every answer, appended to a spool file that the recorder ships later.

A line is in the file before its answer leaves the replica, so a killed worker never gave an answer that
has no receipt. A full disk costs receipts, never answers; how many it cost stands in a line of its own
before the first receipt that could be kept again.

A worker writes ``<replica>-<pid>-<start, ns>.jsonl``; a file that is finished, because it is large or its
writer has ended, is renamed to ``….done``. The name before the suffix stays the same.
"""

import errno
import json
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypedDict

from pipelines.writers import has_writer

ROTATE_BYTES = 16 * 2**20

_encode = json.JSONEncoder(separators=(",", ":")).encode

logger = logging.getLogger(__name__)


class Receipt(TypedDict):
    """What is remembered of one answer; the keys are the columns of ``reccom``."""

    request_id: str
    version_number: int
    user_id: str
    """As asked for, cut to 255 characters."""
    served_at: str
    """ISO 8601, UTC."""
    arm: str
    replica: str
    source: str
    movie_ids: str
    """Best first, comma-separated, exactly as answered."""
    watched: str
    """Movies watched since the training that the list accounts for, the latest first, comma-separated."""
    latency_ms: float
    """From the request's arrival in the application to the finished answer."""
    status: int
    canary_percent: int | None
    """Split in force, as NGINX said; None: asked past NGINX."""


class Loss(TypedDict):
    """What is remembered of answers in a row that left no receipt; a line of the spool like a receipt."""

    lost: int
    """How many, at least 1."""
    replica: str
    since: str
    """``served_at`` of the first of them."""
    until: str
    """``served_at`` of the last of them."""


@dataclass(slots=True)
class _File:
    path: Path
    descriptor: int
    size: int
    pid: int


class Spool:
    """Appends receipts to a file of this process; opened with the first receipt, hence after the fork."""

    def __init__(self, folder: Path, replica: str, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        """Write below ``folder``, starting a new file whenever one has reached ``rotate_bytes``."""
        self._folder = folder
        self._replica = replica
        self._rotate_bytes = rotate_bytes
        self._lock = Lock()
        self._file: _File | None = None
        self._loss: Loss | None = None

    def append(self, receipt: Receipt) -> bool:
        """Write one line; return whether it is safe from the end of this process. Never raises."""
        line = _line(receipt)
        with self._lock:
            try:
                # One write: a loss is told once, together with the receipt that shows its end.
                self._write(_line(self._loss) + line if self._loss else line)
            except OSError as error:
                self._lose(receipt, error)
                return False
            if self._loss:
                logger.warning(
                    "receipts are kept again in %s after %d lost", self._folder, self._loss["lost"]
                )
                self._loss = None
        return True

    def _lose(self, receipt: Receipt, error: OSError) -> None:
        at = receipt["served_at"]
        if self._loss:
            self._loss["lost"] += 1
            self._loss["until"] = at
            return
        # Told once per outage: the metric counts what follows.
        logger.error("receipts are lost: %s; free space in %s or mend it", error, self._folder)
        self._loss = Loss(lost=1, replica=self._replica, since=at, until=at)

    def _write(self, line: bytes) -> None:
        file = self._current()
        written = os.write(file.descriptor, line)
        if written < len(line):
            # Half a line would swallow the next one.
            os.ftruncate(file.descriptor, file.size)
            raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes could be written")
        file.size += written

    def _current(self) -> _File:
        if self._file is not None and self._file.pid == os.getpid():
            if self._file.size < self._rotate_bytes:
                return self._file
            self._finish(self._file)
        self._file = self._open()
        return self._file

    def _open(self) -> _File:
        self._folder.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        path = self._folder / f"{self._replica}-{pid}-{time.time_ns()}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return _File(path, descriptor, 0, pid)

    def _finish(self, file: _File) -> None:
        self._file = None
        os.close(file.descriptor)
        # A file that keeps its name is sealed when this process ends.
        _try_to_mark_done(file.path)


def seal(folder: Path, replica: str) -> list[Path]:
    """Mark as done the files that ended workers of ``replica`` left behind; return their new paths.

    While a container of the replica takes over from another, both have workers, under the same process ids:
    only whether a file is being written tells. Never raises: the caller is the server's master, and a file
    that cannot be sealed is shipped all the same.
    """
    name = re.compile(re.escape(replica) + r"-\d+-\d+\.jsonl")
    own = [path for path in sorted(folder.glob("*.jsonl")) if name.fullmatch(path.name)]
    return [done for path in own if not has_writer(path) and (done := _try_to_mark_done(path))]


def _line(entry: Receipt | Loss) -> bytes:
    return _encode(entry).encode() + b"\n"


def _try_to_mark_done(path: Path) -> Path | None:
    try:
        return _mark_done(path)
    except FileNotFoundError:
        return None  # shipped and deleted meanwhile
    except OSError as error:
        logger.warning("%s cannot be marked as done: %s", path, error)
        return None


def _mark_done(path: Path) -> Path:
    return path.rename(path.with_suffix(".done"))
