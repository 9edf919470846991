import json
import smtplib
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.local import catchers
from pipelines.local.catchers import Mail, SlackMessage
from tests.ports import free_ports

Catcher = Callable[[int, Path, threading.Event], None]


@contextmanager
def running(catcher: Catcher, folder: Path) -> Iterator[int]:
    """A catcher in a thread of its own; gives its port."""
    (port,) = free_ports(1)
    stop = threading.Event()
    thread = threading.Thread(target=catcher, args=(port, folder, stop))
    thread.start()
    try:
        yield port
    finally:
        stop.set()
        thread.join()


def send(port: int, message: EmailMessage, to: list[str]) -> None:
    for _ in range(500):
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=5) as server:
                server.send_message(message, from_addr="envelope@here", to_addrs=to)
            return
        except ConnectionRefusedError:
            threading.Event().wait(0.01)
    raise AssertionError("the mail catcher did not come up")


def post(port: int, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/services/T/B/x", data=body)
    for _ in range(500):
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except urllib.error.URLError:
            threading.Event().wait(0.01)
    raise AssertionError("the Slack catcher did not come up")


def mail(subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "header@here", "header@there"
    message.set_content(text)
    return message


def test_mails_are_kept_in_order_with_the_sender_and_receivers_of_the_envelope(tmp_path: Path) -> None:
    with running(catchers.run_smtp, tmp_path / "mails") as port:
        send(port, mail("Version 3 promoted – gut", "Größe\n.\nend"), ["a@x", "b@x"])  # noqa: RUF001
        send(port, mail("second", "text"), ["c@x"])
    assert catchers.read_mails(tmp_path / "mails") == [
        Mail("envelope@here", "a@x, b@x", "Version 3 promoted – gut", "Größe\n.\nend"),  # noqa: RUF001
        Mail("envelope@here", "c@x", "second", "text"),
    ]
    assert {path.suffix for path in (tmp_path / "mails").iterdir()} == {".eml"}


def test_the_plain_text_of_a_mail_in_two_forms_is_shown(tmp_path: Path) -> None:
    both, html = mail("both", "plain"), EmailMessage()
    both.add_alternative("<p>html</p>", subtype="html")
    html["Subject"] = "html"
    html.set_content("<p>html</p>", subtype="html")
    with running(catchers.run_smtp, tmp_path) as port:
        for message in (both, html):
            send(port, message, ["a@x"])
    assert [caught.text for caught in catchers.read_mails(tmp_path)] == ["plain", "<p>html</p>"]


def test_slack_messages_are_kept_in_order_and_answered_like_slack(tmp_path: Path) -> None:
    payloads = [{"text": "Marquee: version 3 promoted"}, {"blocks": [{"type": "divider"}]}]
    with running(catchers.run_slack, tmp_path / "slack") as port:
        answers = [post(port, json.dumps(payload).encode()) for payload in payloads]
    assert answers == [(200, b"ok"), (200, b"ok")]
    assert catchers.read_slack(tmp_path / "slack") == [
        SlackMessage("Marquee: version 3 promoted", payloads[0]),
        SlackMessage("", payloads[1]),
    ]


@pytest.mark.parametrize("body", [b"not json", b"[1]", b"\xff", b""])
def test_what_slack_would_refuse_is_refused(body: bytes, tmp_path: Path) -> None:
    with running(catchers.run_slack, tmp_path) as port:
        assert post(port, body) == (400, b"invalid_payload")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("catcher", [catchers.run_smtp, catchers.run_slack])
def test_a_taken_port_is_told(catcher: Catcher, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port}, wanted by the \w+ catcher, is taken"):
            catcher(port, tmp_path, threading.Event())


@pytest.mark.parametrize("catcher", [catchers.run_smtp, catchers.run_slack])
def test_catchers_listen_where_they_are_told(catcher: Callable[..., None], tmp_path: Path) -> None:
    with running(partial(catcher, host="127.0.0.2"), tmp_path) as port:
        for _ in range(500):
            with suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=5).close()
                break
            threading.Event().wait(0.01)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_nothing_was_caught_where_nothing_ran(tmp_path: Path) -> None:
    assert catchers.read_mails(tmp_path / "none") == []
    assert catchers.read_slack(tmp_path / "none") == []
