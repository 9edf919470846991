"""The connections: each brings one request, which is judged and then passed on or refused."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gate.build import judge_build, written_anew
from gate.create import judge_create
from gate.policy import Policy
from gate.refusal import Refusal, away
from gate.rules import Need, Rule, rule_of
from gate.subjects import container_of, narrowed, see_container, see_image, shown
from gate.values import read_json
from gate.wire import (
    LARGEST_HEAD_BYTES,
    LINGER_S,
    PIECE_BYTES,
    Request,
    answer,
    head_for_docker,
    linger,
    parse_head,
    read_head,
    read_pieces,
    read_text,
    send_body,
)

LARGEST_ANSWER_BYTES = 4 * 2**20
"""Of what this gate itself asks Docker."""
MOST_CONNECTIONS = 256
LOOKUP_TIMEOUT_S = 30.0
GONE = 499
"""In the log, for a status: the caller went before Docker had answered."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What goes on to Docker, or what the gate answers in its place."""

    path: str
    query: dict[str, str]
    body: bytes | AsyncIterator[bytes] = b""
    answer: bytes | None = None
    note: str = ""
    """For the log."""


def log(text: str) -> None:
    """Write one line; what others sent is in it only where it was understood."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"{moment} {text.encode('ascii', 'backslashreplace').decode()}", flush=True)


class Gate:
    """Takes requests and passes on what the rules allow."""

    def __init__(self, policy: Policy, docker: str) -> None:
        """Guard the socket at the path ``docker``."""
        self._policy = policy
        self._docker = docker
        self._connections = 0

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Listen, and return the server."""
        return await asyncio.start_server(self._connected, host, port, limit=LARGEST_HEAD_BYTES)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        who = (writer.get_extra_info("peername") or ["?"])[0]
        # A caller whose machine is gone is noticed in the end.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            self._see_that_there_is_room()
            await self._one_request(reader, writer, who)
        except Refusal as refusal:
            if str(refusal).startswith("gate:"):  # else it is Docker's own "no such container"
                log(f"refused {who} {refusal.status} {refusal}")
            await answer(reader, writer, refusal.status, {"message": str(refusal)})
        except OSError as error:
            log(f"broken {who} {type(error).__name__}")
        finally:
            self._connections -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _see_that_there_is_room(self) -> None:
        if self._connections > MOST_CONNECTIONS:
            raise Refusal(503, f"gate: {self._connections} connections; allowed: {MOST_CONNECTIONS}")

    async def _one_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: str
    ) -> None:
        head = await read_head(reader)
        if not head:
            return
        request = parse_head(head)
        rule, names = rule_of(request)
        passed = await self._judge(request, rule, names, reader)
        if passed.answer is not None:
            await answer(reader, writer, 200, passed.answer)
            return
        began_s = time.monotonic()
        status = await self._pass_on(request, passed, reader, writer)
        if rule.method in {"POST", "DELETE"}:
            took_s = time.monotonic() - began_s
            what = rule.path.rpartition("}")[2] or rule.path
            log(f"passed {who} {rule.method} {what} {passed.note}: {status}, {took_s:.1f} s")

    async def _judge(
        self, request: Request, rule: Rule, names: dict[str, str], reader: asyncio.StreamReader
    ) -> Passed:
        policy, path, query = self._policy, request.path, request.query
        match rule.need:
            case Need.NOTHING:
                return Passed(path, query)
            case Need.LISTING:
                return Passed(path, narrowed(path, query, policy))
            case Need.BUILD:
                archive = written_anew(read_pieces(request, reader), policy)
                return Passed(path, judge_build(query, policy), archive, note=query["t"])
            case Need.CREATE:
                body = judge_create(
                    read_json(await read_text(request, reader)), query.get("name", ""), policy
                )
                note = f"{query['name']} {body['Image']}"
                return Passed(path, query, json.dumps(body).encode(), note=note)
            case Need.IMAGE | Need.VERSION:
                see_image(rule, names["image"], policy)
                return Passed(path, query, note=names["image"])
        container = container_of(await self._ask(f"/containers/{names['container']}/json"))
        see_container(rule, container, query, policy)
        # By its id, so that nobody can give the name to another in between.
        by_id = rule.path.replace("{container}", container.id)
        told = shown(container) if rule.need is Need.INSPECT else None
        return Passed(by_id, query, answer=told, note=f"{container.name} {query.get('name', '')}".rstrip())

    async def _ask(self, path: str) -> dict[str, Any]:
        """Return what Docker says of ``path``; what it refuses is refused in its words."""
        # Of HTTP/1.0 Docker sends no chunks.
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                reader, writer = await self._open()
                try:
                    writer.write(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    text = await _everything(reader)
                finally:
                    writer.close()
            status = int(head.split(b" ", 2)[1])
            said = json.loads(text)
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            raise away(error) from error
        if status != 200:
            raise Refusal(status, str(said.get("message", "")))
        return dict(said)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self._docker, limit=LARGEST_HEAD_BYTES)
        except OSError as error:
            raise away(error) from error

    async def _pass_on(
        self, request: Request, passed: Passed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int:
        """Relay one exchange and return the status that Docker answered with."""
        from_docker, to_docker = await self._open()
        status = GONE

        async def send() -> None:
            """Send the body, then wait for the caller to go; what else it sends is dropped."""
            await send_body(passed.body, to_docker)
            if piece := await reader.read(PIECE_BYTES):
                log(f"dropped what came after {request.method} {request.path}: {len(piece)} bytes and more")
            while piece:
                piece = await reader.read(PIECE_BYTES)

        async def hear() -> None:
            nonlocal status
            head, status = await _status_of(from_docker)
            writer.write(head)
            while piece := await from_docker.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
            await writer.drain()

        try:
            to_docker.write(head_for_docker(request, passed.path, passed.query, passed.body))
            hearing, sending = asyncio.create_task(hear()), asyncio.create_task(send())
            # Sending ends with the caller: who is gone waits for no answer.
            await asyncio.wait({hearing, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done() and sending.done() and isinstance(sending.exception(), ConnectionError):
                # Docker may have said why it took no more.
                await asyncio.wait({hearing}, timeout=LINGER_S)
            for task in (hearing, sending):
                task.cancel()
            results = await asyncio.gather(hearing, sending, return_exceptions=True)
        finally:
            to_docker.close()
        for result in results:
            # Two answers would be one too many.
            if isinstance(result, Refusal) and status == GONE:
                raise result
        await linger(reader, writer)
        return status


async def _status_of(from_docker: asyncio.StreamReader) -> tuple[bytes, int]:
    try:
        head = await from_docker.readuntil(b"\r\n\r\n")
        return head, int(head.split(b" ", 2)[1])
    except (EOFError, ValueError, OSError, asyncio.LimitOverrunError) as error:
        raise away(error) from error


async def _everything(reader: asyncio.StreamReader) -> bytes:
    pieces, size = [], 0
    while piece := await reader.read(PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {LARGEST_ANSWER_BYTES} bytes")
    return b"".join(pieces)
