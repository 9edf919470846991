"""HTTP/1.1, as far as it is understood: a request's head and body read, and written anew."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, urlencode

from gate.refusal import Refusal, malformed, refused

LARGEST_HEAD_BYTES = 16 * 2**10
LARGEST_JSON_BYTES = 256 * 2**10
"""Ten times the description of a replica."""
LARGEST_CONTEXT_BYTES = 4 * 2**30
"""Of a build: ten times a large model."""
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 60.0
"""Longest silence in the middle of a body; answers may be silent for hours."""
LINGER_S = 5.0
PIECE_BYTES = 64 * 2**10

_REQUEST_LINE = re.compile(r"([A-Z]{3,7}) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~](?:[\t -~]*[!-~])?)?)[ \t]*")
_PATH = re.compile(r"(?P<version>(?:/v1\.(?:4[0-9]|[5-9][0-9]))?)(?P<path>(?:/[A-Za-z0-9_.:@-]+)+)")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was understood."""

    method: str
    path: str
    """Without query and version of the API."""
    query: dict[str, str]
    version: str = ""
    """Of the API, as it stands before the path: ``/v1.41``; often empty."""
    length: int | None = 0
    """Bytes of the body; None: it comes in chunks."""


def parse_head(head: bytes) -> Request:
    """Return the request that ``head``, up to and with its empty line, states; anything odd is refused."""
    try:
        lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    except UnicodeDecodeError:
        raise malformed("the head is not ASCII") from None
    first = _REQUEST_LINE.fullmatch(lines[0])
    if first is None:
        raise malformed(f"request line {lines[0][:80]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise malformed(f"header line {line[:40]!r}")
        name = found[1].lower()
        if name in headers:
            raise malformed(f"header {name!r} twice")
        headers[name] = found[2]
    if "upgrade" in headers:
        raise refused(f"an upgrade to {headers['upgrade'][:20]!r}", "none")
    path, _, query = first[2].partition("?")
    place = _PATH.fullmatch(path)
    if place is None or not {".", ".."}.isdisjoint(path.split("/")):
        raise malformed(f"path {path[:80]!r}")
    return Request(first[1], place["path"], _query(query), place["version"], _length(headers))


def _query(query: str) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32
        )
    except ValueError:
        raise malformed("a query that cannot be read") from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise malformed("a parameter twice")
    return values


def _length(headers: Mapping[str, str]) -> int | None:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if coding != "chunked" or length is not None:
            raise malformed(f"transfer-encoding {coding[:40]!r} and content-length {length!r:.40}")
        return None
    if length is None:
        return 0
    if not re.fullmatch("[0-9]{1,12}", length):
        raise malformed(f"content-length {length[:40]!r}")
    return int(length)


# --- reading --------------------------------------------------------------------------------------


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """Return the head of the next request; empty when the caller said nothing at all."""
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return b""
        raise malformed("a head that ends early") from None
    except asyncio.LimitOverrunError:
        raise Refusal(431, f"gate: a head of more than {LARGEST_HEAD_BYTES} bytes") from None
    except TimeoutError:
        raise Refusal(408, f"gate: no head within {HEAD_TIMEOUT_S:g} s") from None


async def read_text(request: Request, reader: asyncio.StreamReader) -> str:
    """Return a body that comes in one piece."""
    if request.length is None:
        raise refused(f"{request.method} {request.path} in chunks", "content-length")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return (await reader.readexactly(request.length)).decode()
    except (TimeoutError, asyncio.IncompleteReadError, UnicodeDecodeError):
        raise malformed("a body that is not whole") from None


async def read_pieces(request: Request, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield a body as it comes; chunks may have neither extensions nor trailers."""
    if request.length is not None:
        async for piece in _exactly(request.length, reader):
            yield piece
        return
    total, size = 0, -1
    while size:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            line = b""
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}\r\n", line):
            raise malformed(f"chunk {line[:40]!r}")
        size = int(line, 16)
        total += size
        if total > LARGEST_CONTEXT_BYTES:
            raise Refusal(413, f"gate: a body of more than {LARGEST_CONTEXT_BYTES} bytes")
        async for piece in _exactly(size, reader):
            yield piece
        if b"".join([piece async for piece in _exactly(2, reader)]) != b"\r\n":
            raise malformed("a chunk without its end")


async def _exactly(length: int, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while length:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            piece = await reader.read(min(length, PIECE_BYTES))
        if not piece:
            raise malformed("a body that ends early")
        length -= len(piece)
        yield piece


# --- writing --------------------------------------------------------------------------------------


def head_for_docker(
    request: Request, path: str, query: Mapping[str, str], body: bytes | AsyncIterator[bytes]
) -> bytes:
    """Return the head that goes to Docker: no header of the caller's is in it."""
    target = request.version + path + (f"?{urlencode(query)}" if query else "")
    lines = [f"{request.method} {target} HTTP/1.1", "Host: docker"]
    if not isinstance(body, bytes):
        lines += ["Content-Type: application/x-tar", "Transfer-Encoding: chunked"]
    elif body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    elif request.method == "POST":
        lines += ["Content-Length: 0"]
    lines += ["Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def send_body(body: bytes | AsyncIterator[bytes], to_docker: asyncio.StreamWriter) -> None:
    """Write a body; what comes in pieces goes in chunks."""
    if isinstance(body, bytes):
        to_docker.write(body)
    else:
        async for piece in body:
            to_docker.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await to_docker.drain()
        to_docker.write(b"0\r\n\r\n")
    await to_docker.drain()


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, said: Mapping[str, str] | bytes
) -> None:
    """Answer a caller with JSON, and close."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await linger(reader, writer)


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close our side; closing both while the caller still sends would take the answer out of its hands."""
    with suppress(OSError):
        writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await reader.read(PIECE_BYTES):
                pass
