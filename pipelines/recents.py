"""What each user has watched since the training: an LMDB folder with one writer and any number of readers.

``users`` maps a user id to movie ids, the latest first, and when each was last watched; ``meta`` holds which
offset of the stream comes next, written in the transaction of the events before it. Killed at any moment,
the folder holds all of a transaction or nothing of it. Needs lmdb, nothing else: the replicas read here.

Readers take no lock and leave nothing behind: a replica may have the folder read-only, and a reader that is
killed blocks no page. In exchange the writer leaves alone for `GRACE_S` what a reader may be looking at.
"""

import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

import lmdb

from pipelines.errors import DataError

MOST_MOVIES = 50
"""Movies remembered of a user unless the writer is told otherwise."""
GRACE_S = 10.0
"""How long a look-up may take, stopped process included, before its pages may be written over."""

_USERS, _META = b"users", b"meta"
_NEWEST = b"newest"
_OFFSET = b"offset\0"
# Address space, not memory: a million users with 50 movies each take about 2 GB.
_MAP_BYTES = 2**35
_LONGEST_KEY_BYTES = 511
_LOOK_AGAIN_S = 1.0

# In quotes: generic for type checkers only.
_Transaction: TypeAlias = "lmdb.Transaction[bytes]"

Offsets = Mapping[tuple[str, int], int]
"""Next offset to read by (identity of the stream, partition)."""


class Viewing(NamedTuple):
    """One watched minute of a movie, ids as the grammar of the stream has them; ``time`` has a zone."""

    user_id: str
    movie_id: str
    time: datetime


class RecentsWriter:
    """The one writer of the folder; a second one has no place."""

    def __init__(self, folder: Path, keep_days: float, most: int = MOST_MOVIES) -> None:
        """Open or make ``folder``; what is older than ``keep_days`` may go, and all but ``most`` of a user.

        Raises:
            DataError: the folder cannot be written, or holds something else.
        """
        self._folder = folder
        self._keep_s = round(keep_days * 86_400)
        self._most = most
        self._swept_to = b""
        self._grace: deque[tuple[float, _Transaction]] = deque()
        with self._translated("open"):
            folder.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(str(folder), map_size=_MAP_BYTES, max_dbs=2)
            self._users = self._env.open_db(_USERS)
            self._meta = self._env.open_db(_META)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        self._grace.clear()
        self._env.close()

    def add(self, viewings: Iterable[Viewing], next_offsets: Offsets) -> None:
        """Take in ``viewings``, in any order, and which offsets come after them: both or neither.

        Raises:
            DataError: the folder cannot be written; nothing of this was taken in.
        """
        fresh = _by_user(viewings, now_s=int(time.time()))
        with self._writing("take in viewings") as transaction:
            newest_s = max((time_s for movies in fresh.values() for time_s in movies.values()), default=0)
            newest_s = max(newest_s, self._newest_s(transaction))
            transaction.put(_NEWEST, b"%d" % newest_s, db=self._meta)
            for user, movies in sorted(fresh.items()):
                self._merge(transaction, user, movies, newest_s)
            for (identity, partition), offset in next_offsets.items():
                transaction.put(_offset_key(identity, partition), b"%d" % offset, db=self._meta)

    def next_offsets(self) -> dict[tuple[str, int], int]:
        """Return where to go on in every stream that was ever followed; empty for a new folder."""
        with self._translated("read the offsets"), self._env.begin(db=self._meta) as transaction:
            cursor = transaction.cursor()
            found = cursor.iternext() if cursor.set_range(_OFFSET) else iter(())
            return {_stream(key): int(value) for key, value in found if key.startswith(_OFFSET)}

    def sweep(self, most_users: int = 10_000) -> int:
        """Look at the next ``most_users`` users, round and round, and forget what is too old.

        Age is counted from the newest viewing, so that an old log can be followed, too. Returns how many
        users were forgotten altogether.
        """
        forgotten = 0
        with self._writing("forget old viewings") as transaction:
            newest_s = self._newest_s(transaction)
            for user, packed in self._portion(transaction, most_users, newest_s):
                if kept := self._kept(_unpack(packed), newest_s):
                    transaction.put(user, _pack(kept), db=self._users)
                else:
                    transaction.delete(user, db=self._users)
                    forgotten += 1
        return forgotten

    def _portion(
        self, transaction: _Transaction, most_users: int, newest_s: int
    ) -> list[tuple[bytes, bytes]]:
        """Return those of the next users of the round that have something too old to keep."""
        cursor = transaction.cursor(db=self._users)
        records = cursor.iternext() if cursor.set_range(self._swept_to) else iter(())
        seen = list(islice(records, most_users))
        self._swept_to = seen[-1][0] + b"\0" if len(seen) == most_users else b""
        return [(user, packed) for user, packed in seen if _oldest_s(packed) < newest_s - self._keep_s]

    def _merge(self, transaction: _Transaction, user: bytes, fresh: dict[bytes, int], newest_s: int) -> None:
        packed = transaction.get(user, db=self._users)
        movies = _unpack(packed) if packed else {}
        for movie, time_s in fresh.items():
            movies[movie] = max(time_s, movies.get(movie, 0))
        if kept := self._kept(movies, newest_s):
            transaction.put(user, _pack(kept), db=self._users)

    def _kept(self, movies: dict[bytes, int], newest_s: int) -> list[tuple[bytes, int]]:
        """Return what is young enough, the latest first; among equals the order of the ids decides."""
        young = [(movie, time_s) for movie, time_s in movies.items() if time_s >= newest_s - self._keep_s]
        return sorted(young, key=lambda one: (-one[1], one[0]))[: self._most]

    def _newest_s(self, transaction: _Transaction) -> int:
        return int(transaction.get(_NEWEST, b"0", db=self._meta))

    @contextmanager
    def _writing(self, doing: str) -> Iterator[_Transaction]:
        with self._translated(doing):
            self._hold_back_pages()
            with self._env.begin(write=True) as transaction:
                yield transaction

    def _hold_back_pages(self) -> None:
        # LMDB writes over no page that an open transaction could read: ours stand in for the readers.
        now = time.monotonic()
        if not self._grace or self._grace[-1][0] < now - 1.0:
            self._grace.append((now, self._env.begin()))
        while self._grace[0][0] < now - GRACE_S:
            self._grace.popleft()[1].abort()

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise DataError(
                f"could not {doing} in {self._folder}: {error}; free space or mend the permissions, or "
                "delete the folder: it is filled again from the stream"
            ) from error


class Recents:
    """A reader of the folder, which need not exist; shared by threads, first used after the last fork."""

    def __init__(self, folder: Path) -> None:
        """Keep the path; the folder is opened when somebody is asked for, and again when it was replaced."""
        self._folder = folder
        self._lock = Lock()
        self._look_again_s = float("-inf")
        self._inode = 0
        self._env: lmdb.Environment | None = None
        self._users: lmdb._Database | None = None

    def watched(self, user_id: str) -> tuple[str, ...]:
        """Return the movies that ``user_id`` has watched since the training, the latest first.

        Raises:
            DataError: the folder is there and cannot be read.
        """
        try:
            if time.monotonic() >= self._look_again_s:
                self._look()
            if self._env is None:
                return ()
            key = _key(user_id)
            if not key:
                return ()
            with self._env.begin(db=self._users) as transaction:
                packed = transaction.get(key)
        except (lmdb.Error, OSError) as error:
            raise DataError(
                f"could not read what users watched from {self._folder}: {error}; stop `python -m pipelines "
                "follow`, delete the folder and start it again"
            ) from error
        return tuple(packed.partition(b"\0")[0].decode().split(",")) if packed else ()

    def _look(self) -> None:
        """Open the folder if it has come, or has been replaced, since the last look."""
        with self._lock:
            self._look_again_s = time.monotonic() + _LOOK_AGAIN_S
            try:
                inode = (self._folder / "data.mdb").stat().st_ino
            except FileNotFoundError:
                self._inode, self._env = 0, None
                return
            if inode != self._inode:
                self._open()
                self._inode = inode

    def _open(self) -> None:
        # Threads in the middle of a look-up hold the old environment; the last of them closes it.
        self._env = None
        env = lmdb.open(str(self._folder), map_size=_MAP_BYTES, max_dbs=2, readonly=True, lock=False)
        try:
            self._users = env.open_db(_USERS, create=False)
        except lmdb.NotFoundError:
            return  # the writer is just making it
        self._env = env


def _by_user(viewings: Iterable[Viewing], *, now_s: int) -> dict[bytes, dict[bytes, int]]:
    """Return each user's movies and when they were last watched, seconds; the future counts as now.

    A damaged year must neither stay on top for ever nor make everything else look old.
    """
    found: dict[bytes, dict[bytes, int]] = {}
    for user_id, movie_id, at in viewings:
        movies = found.setdefault(_key(user_id), {})
        movie = movie_id.encode()
        movies[movie] = max(min(int(at.timestamp()), now_s), movies.get(movie, 0))
    found.pop(b"", None)
    return found


def _key(user_id: str) -> bytes:
    """Return the key of a user; empty for text that can be none."""
    raw = user_id.encode("utf-8", "surrogatepass")
    return raw if len(raw) <= _LONGEST_KEY_BYTES else b""


def _pack(movies: Sequence[tuple[bytes, int]]) -> bytes:
    """Write the ids, comma-separated, a NUL and as many times: what replicas ask for comes first."""
    times = struct.pack(f"<{len(movies)}I", *(time_s for _, time_s in movies))
    return b",".join(movie for movie, _ in movies) + b"\0" + times


def _unpack(packed: bytes) -> dict[bytes, int]:
    ids, _, times = packed.partition(b"\0")
    return dict(zip(ids.split(b","), struct.unpack(f"<{len(times) // 4}I", times), strict=True))


def _oldest_s(packed: bytes) -> int:
    oldest: int = struct.unpack("<I", packed[-4:])[0]
    return oldest


def _offset_key(identity: str, partition: int) -> bytes:
    return _OFFSET + identity.encode() + b"\0%d" % partition


def _stream(key: bytes) -> tuple[str, int]:
    _, identity, partition = key.split(b"\0")
    return identity.decode(), int(partition)
