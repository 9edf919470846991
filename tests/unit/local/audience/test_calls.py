import http.server
import random
import re
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from pipelines.errors import StackError
from pipelines.events.grammar import Reject, Request, parse
from pipelines.local.audience import calls
from pipelines.local.audience.calls import Call, Caller
from tests.ports import free_ports

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Replies(http.server.BaseHTTPRequestHandler):
    """Answers by user: 1 is well served, 2 finds an error page, 3 an empty answer, 4 a closed door."""

    def do_GET(self) -> None:
        user = self.path.removeprefix("/recommend/")
        if user == "4":
            self.close_connection = True
            return
        status, body = {"2": (502, "<html>\n<h1>Bad Gateway</h1>\n"), "3": (200, "")}.get(
            user, (200, "up+2009,pulp+fiction+1994\n")
        )
        self.send_response(status)
        self.send_header("X-Marquee-Version", "7")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replies) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Caller(f"http://127.0.0.1:{server.server_port}/recommend")
        server.shutdown()
        thread.join()


def told(call: Call) -> Request | Reject:
    """What the parser makes of the line of a call."""
    event = parse(call.line(EPOCH, random.Random(1)).encode())
    assert isinstance(event, Request | Reject)
    return event


def test_a_good_answer_is_told_with_its_movies_and_version(caller: Caller) -> None:
    call = caller.ask("1")
    event = told(call)
    assert isinstance(event, Request)
    assert (event.user_id, event.status, event.movie_ids) == (1, 200, ("up+2009", "pulp+fiction+1994"))
    assert (event.host, event.port) == ("127.0.0.1", caller.port)
    assert (call.answered, call.version) == (True, "7")


def test_an_error_page_is_told_in_one_line_with_its_status(caller: Caller) -> None:
    call = caller.ask("2")
    event = told(call)
    assert isinstance(event, Request)
    assert (event.status, event.error, call.answered) == (502, "<html> <h1>Bad Gateway</h1>", False)


def test_an_empty_answer_is_no_answer(caller: Caller) -> None:
    call = caller.ask("3")
    assert (call.request.status, call.answered) == (200, False)
    assert isinstance(told(call), Reject)


def test_a_closed_connection_is_told_as_java_would(caller: Caller) -> None:
    event = told(caller.ask("4"))
    assert isinstance(event, Request)
    assert (event.status, event.error) == (0, "java.net.ConnectException: RemoteDisconnected")


def test_nobody_listening_is_told_as_java_would() -> None:
    (port,) = free_ports(1)
    event = told(Caller(f"http://127.0.0.1:{port}/recommend").ask("1"))
    assert isinstance(event, Request)
    assert (event.status, event.error) == (0, "java.net.ConnectException: Connection refused")


def test_a_silent_server_costs_the_patience_and_is_told_as_java_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "PATIENCE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        call = Caller(f"http://127.0.0.1:{port}/recommend").ask("1")
    event = told(call)
    assert isinstance(event, Request)
    assert event.error == (
        f"java.util.concurrent.TimeoutException: Request timeout to 127.0.0.1/127.0.0.1:{port} after 50 ms"
    )
    assert (event.status, call.answered) == (0, False)


def test_a_list_that_came_too_late_is_told_but_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.819])
    monkeypatch.setattr(calls, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(Caller, "_get", lambda *_: (200, "glory+1989,pulp+fiction+1994", "7"))
    call = Caller("http://host:8082/recommend").ask("231202")
    assert call.line(EPOCH, random.Random(1)).endswith(
        "recommendation request host:8082, status 0, result: glory+1989, pulp+fiction+1994, 819 ms"
    )
    assert not call.answered


@pytest.mark.parametrize("user", ["abc", "99999999", "-1", "1.5", "0"])
def test_nonsense_is_asked_and_told_as_it_is(user: str, caller: Caller) -> None:
    call = caller.ask(user)
    assert call.answered
    assert call.line(EPOCH, random.Random(1)).split(",")[1] == user
    assert isinstance(told(call), Reject)


def test_times_have_none_three_six_or_nine_digits_of_a_second_and_mean_the_same() -> None:
    time = datetime(2023, 10, 25, 7, 20, 57, 389_417, UTC)
    call = Call("1", Request(time, 1, "host", 8082, 200, ("up+2009",), "", 351), "7")
    rng = random.Random(1)
    written = {call.line(EPOCH, rng).split(",")[0] for _ in range(200)}
    digits = {len(text.partition(".")[2]) for text in written}
    assert digits == {0, 3, 6, 9}
    assert all("2023-10-25T07:20:57.389417".startswith(text[:26]) for text in written)


def test_a_call_is_never_told_as_earlier_than_what_came_before() -> None:
    time = datetime(2023, 10, 25, 7, 20, 57, 999_999, UTC)
    call = Call("1", Request(time, 1, "host", 8082, 200, ("up+2009",), "", 351), "7")
    before = datetime(2023, 10, 25, 7, 20, 58, tzinfo=UTC)
    assert re.match(r"2023-10-25T07:20:58,1,", call.line(before, random.Random(1)))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8082/recommend", "https://127.0.0.1/recommend", "http:///x", ""]
)
def test_an_address_that_cannot_be_asked_is_refused(address: str) -> None:
    with pytest.raises(StackError, match="no address like http://127"):
        Caller(address)
