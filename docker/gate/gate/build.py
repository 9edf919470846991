"""Of what an image may be built: one Dockerfile of one line, and the files of a model.

A Dockerfile of somebody else's could begin with any image of this machine, or have Docker pull one, and run
commands as root.
"""

import re
import tarfile
from collections.abc import AsyncIterator, Mapping

from gate.policy import Policy
from gate.refusal import malformed, refused
from gate.values import is_no
from gate.wire import PIECE_BYTES

_NAME = re.compile(r"model(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,8}")
# Times of day that do not fit into a header; whatever else is said there could change the header's meaning.
_TIMES = re.compile(rb"([0-9]+ [acm]time=[0-9.]+\n)*\0*")
_BLOCK_BYTES = tarfile.BLOCKSIZE
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)  # not the sparse ones, which `isreg` takes in


def judge_build(query: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """Return the parameters with which an image may be built."""
    tag = query.get("t", "")
    if not policy.version_image.fullmatch(tag):
        raise refused(f"build of {tag[:80]!r}", f"{policy.repository}:v<number>")
    if not is_no(query.get("pull", "")):
        raise refused("build that pulls", "build from images of this machine")
    return {**query, "networkmode": "none"}


async def written_anew(pieces: AsyncIterator[bytes], policy: Policy) -> AsyncIterator[bytes]:
    """Yield an archive of what was understood of the one in ``pieces``: all headers are the gate's own.

    Raises:
        Refusal: in it is something else than the Dockerfile, and then the model. Docker has not got the end
            of the archive, and builds nothing.
    """
    tape = _Tape(pieces)
    first = await _entry(tape)
    dockerfile = await tape.exactly(_padded(len(policy.dockerfile))) if first else b""
    name, size = (first.name, first.size) if first else ("", 0)
    if name != "Dockerfile" or dockerfile[:size] != policy.dockerfile:
        said = dockerfile[:size].decode("ascii", "replace")
        raise refused(f"build that begins with {name[:40]!r} {said!r:.60}", repr(policy.dockerfile.decode()))
    yield _header(name, size) + dockerfile[:size] + bytes(_padded(size) - size)
    while entry := await _entry(tape):
        if not _NAME.fullmatch(entry.name):
            raise refused(f"build with {entry.name[:60]!r}", "model/…")
        yield _header(entry.name, entry.size, is_folder=entry.isdir())
        left = _padded(entry.size)
        while left:
            piece = await tape.exactly(min(left, PIECE_BYTES))
            left -= len(piece)
            yield piece
    yield bytes(2 * _BLOCK_BYTES)
    while piece := await tape.read():
        if piece.strip(b"\0"):
            raise malformed("something behind the end of an archive")


async def _entry(tape: "_Tape") -> tarfile.TarInfo | None:
    """Return the next file or folder; None at the end."""
    while True:
        header = await tape.exactly(_BLOCK_BYTES)
        if header == bytes(_BLOCK_BYTES):
            return None
        try:
            entry = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeError) as error:
            raise malformed(f"an archive that cannot be read ({str(error)[:60]})") from None
        if entry.type == tarfile.XHDTYPE and 0 <= entry.size <= PIECE_BYTES:
            if _TIMES.fullmatch(await tape.exactly(_padded(entry.size))):
                continue
            raise refused("an archive with headers of its own", "times")
        is_empty_folder = entry.isdir() and entry.size == 0
        if not (entry.type in _FILES or is_empty_folder) or entry.size < 0:
            raise refused(f"build with {entry.name[:60]!r} of type {entry.type!r}", "files and folders")
        return entry


def _header(name: str, size: int, *, is_folder: bool = False) -> bytes:
    anew = tarfile.TarInfo(name)
    anew.size, anew.mode = size, 0o755 if is_folder else 0o644
    anew.type = tarfile.DIRTYPE if is_folder else tarfile.REGTYPE
    return anew.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


class _Tape:
    """Pieces, cut as they are wanted."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    async def read(self) -> bytes:
        """Return what comes next; nothing at the end."""
        rest, self._rest = self._rest, b""
        return rest or await anext(self._pieces, b"")

    async def exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = await self.read()
            if not part:
                raise malformed("an archive that ends early")
            parts.append(part[:size])
            self._rest = part[size:]
            size -= len(parts[-1])
        return b"".join(parts)
