"""The gate over the wire, before something that would take whatever it is sent."""

import asyncio
import io
import json
import tarfile
from contextlib import asynccontextmanager, suppress
from copy import deepcopy

import gate.server
import gate.wire
import httptools
import pytest
from gate.policy import policy_of
from gate.server import Gate

from tests.gate import DOCKERFILE, ID, MODEL, POLICY, archive, container, replica_body


class Docker:
    """Remembers what it was sent, knows one container, and answers everything with 200."""

    def __init__(self):
        self.requests = []

    async def answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b" HTTP/1.0" in head:
            body = json.dumps(container()).encode()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        else:
            self.requests.append(head)
            while b"build" in head and (piece := await reader.readline()):
                self.requests.append(piece)
                if piece == b"0\r\n":
                    break
            # What a smuggler hopes for: a server that reads on.
            with_more = asyncio.wait_for(reader.read(1000), 0.05)
            with suppress(TimeoutError):
                self.requests.append(await with_more)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"2\r\nOK\r\n0\r\n\r\n")
        writer.close()


@asynccontextmanager
async def gate_before(docker, folder):
    path = str(folder / "docker.sock")
    server = await asyncio.start_unix_server(docker.answer, path)
    guard = await Gate(POLICY, path).serve("127.0.0.1", 0)
    async with server, guard:
        yield guard.sockets[0].getsockname()[1]


async def said(port, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


STOP = b"POST /v1.41/containers/shop-canary-1/stop HTTP/1.1\r\nHost: gate\r\nContent-Length: 0\r\n\r\n"
SMUGGLED = b"POST /v1.41/containers/shop-mysql-1/stop HTTP/1.1\r\nHost: docker\r\n\r\n"
CHUNKS = b"POST /build?t=marquee-serving:v8 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"POST /build?t=marquee-serving:v8 HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
SENT = archive(DOCKERFILE, *MODEL)
IN_CHUNKS = CHUNKS + b"00a\r\n%b\r\n%x\r\n%b\r\n" % (SENT[:10], len(SENT) - 10, SENT[10:])


def over_the_wire(folder, sent):
    docker = Docker()

    async def story():
        async with gate_before(docker, folder) as port:
            return await said(port, sent)

    return asyncio.run(story()), docker.requests


def test_a_call_passes_once_by_the_id_of_the_container(tmp_path):
    answer, requests = over_the_wire(tmp_path, STOP)
    assert answer.endswith(b"2\r\nOK\r\n0\r\n\r\n")
    wanted = f"POST /v1.41/containers/{ID}/stop HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n"
    assert requests[0] == wanted.encode() + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "before",
    [
        STOP,
        b"GET /_ping HTTP/1.1\r\n\r\n",
        IN_CHUNKS + b"0\r\n\r\n",
        LENGTH % len(SENT) + SENT,
    ],
    ids=["stop", "ping", "chunks", "length"],
)
def test_a_second_request_never_reaches_docker(tmp_path, before):
    _, requests = over_the_wire(tmp_path, before + SMUGGLED)
    assert b"mysql" not in b"".join(requests)
    assert requests


class Body:
    """What another parser takes out of a request."""

    def __init__(self, sent):
        self.got = b""
        httptools.HttpRequestParser(self).feed_data(sent)

    def on_body(self, piece):
        self.got += piece


@pytest.mark.parametrize(
    "sent", [IN_CHUNKS + b"0\r\n\r\n", LENGTH % len(SENT) + SENT], ids=["chunks", "length"]
)
def test_a_context_arrives_as_it_was_meant(tmp_path, sent):
    answer, requests = over_the_wire(tmp_path, sent)
    assert answer.startswith(b"HTTP/1.1 200 ")
    with tarfile.open(fileobj=io.BytesIO(Body(b"".join(requests)).got)) as tar:
        got = [(each.name, (each.isreg() and tar.extractfile(each).read()) or None) for each in tar]
    assert got == [DOCKERFILE, *MODEL]


def test_of_another_dockerfile_docker_never_gets_the_end(tmp_path):
    sent = archive(("Dockerfile", b"FROM mysql:9\nRUN id\n"))
    answer, requests = over_the_wire(tmp_path, LENGTH % len(sent) + sent)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert not requests or b"mysql" not in b"".join(requests)
    assert not b"".join(requests).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "chunks",
    [
        b"4;a=b\r\n0123\r\n0\r\n\r\n",
        b"0x4\r\n0123\r\n0\r\n\r\n",
        b"-4\r\n0123\r\n0\r\n\r\n",
        b"4\n0123\r\n0\r\n\r\n",
        b"4\r\n01234\r\n0\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"fffffffff\r\n0123",
    ],
)
def test_tricks_with_chunks_end_the_request(tmp_path, chunks):
    _, requests = over_the_wire(tmp_path, IN_CHUNKS + chunks + SMUGGLED)
    assert b"mysql" not in b"".join(requests)
    # Never ended: Docker builds nothing.
    assert not requests or not b"".join(requests).endswith(b"0\r\n\r\n")


def test_the_log_tells_the_status_that_docker_gave_also_of_who_went_first(tmp_path, capsys):
    async def story():
        async with gate_before(Docker(), tmp_path) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(STOP)
            await reader.readexactly(len(b"HTTP/1.1 200"))
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.02)

    asyncio.run(story())
    assert "POST /stop shop-canary-1: 200, " in capsys.readouterr().out


def test_a_filter_that_makes_no_sense_is_answered(tmp_path):
    sent = b"GET /containers/json?filters=%7B%22label%22%3A5%7D HTTP/1.1\r\n\r\n"
    answer, requests = over_the_wire(tmp_path, sent)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert requests == []


def test_without_docker_the_answer_is_502(tmp_path):
    async def story():
        guard = await Gate(POLICY, str(tmp_path / "none")).serve("127.0.0.1", 0)
        async with guard:
            return await said(guard.sockets[0].getsockname()[1], b"GET /_ping HTTP/1.1\r\n\r\n")

    assert asyncio.run(story()).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


@pytest.mark.parametrize("bound", ["MOST_CONNECTIONS", "LARGEST_HEAD_BYTES", "HEAD_TIMEOUT_S"])
def test_bounds_hold(tmp_path, monkeypatch, bound):
    sent, status = {
        "MOST_CONNECTIONS": (STOP, 503),
        "LARGEST_HEAD_BYTES": (b"GET /_ping HTTP/1.1\r\nA: " + b"a" * 100 + b"\r\n\r\n", 431),
        "HEAD_TIMEOUT_S": (b"GET /_ping HTTP/1.1\r\n", 408),
    }[bound]
    module = gate.wire if bound == "HEAD_TIMEOUT_S" else gate.server
    monkeypatch.setattr(module, bound, {"LARGEST_HEAD_BYTES": 64}.get(bound, 0))
    answer, requests = over_the_wire(tmp_path, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert requests == []


def test_a_refusal_is_logged_without_what_was_sent_in_the_body(tmp_path, capsys):
    body = json.dumps(deepcopy(replica_body(Privileged=True)) | {"Env": ["PASSWORD=s3cret"]}).encode()
    head = f"POST /containers/create?name=shop-canary-1 HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    answer, requests = over_the_wire(tmp_path, head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert "HostConfig.Privileged" in json.loads(answer.partition(b"\r\n\r\n")[2])["message"]
    assert requests == []
    logged = capsys.readouterr().out
    assert logged.count("\n") == 1
    assert "HostConfig.Privileged" in logged
    assert "s3cret" not in logged


def test_a_gate_of_no_project_does_not_start():
    with pytest.raises(SystemExit, match="MARQUEE_COMPOSE_PROJECT=''"):
        policy_of({})
