"""A mail server and a Slack of our own; what arrives is kept as files.

Both answer as the real ones do and deliver nothing to anybody; they listen on the loopback interface unless
told otherwise.
"""

import asyncio
import itertools
import json
import os
import threading
import time
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from pipelines.errors import StackError
from pipelines.local.signals import stop_event

LOOPBACK = "127.0.0.1"
_LARGEST_BODY = 1_000_000
_SERIAL = itertools.count()


@dataclass(frozen=True, slots=True)
class Mail:
    """One caught e-mail."""

    sender: str
    """From the envelope, as is ``to``: what the mail says of itself may differ."""
    to: str
    """Recipients, comma-separated."""
    subject: str
    text: str
    """The plain text if there is one, else the HTML."""


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """One caught webhook call."""

    text: str
    """The field ``text`` of the payload; empty where there is none."""
    payload: dict[str, Any]


def run_smtp(port: int, folder: Path, stop: threading.Event | None = None, *, host: str = LOOPBACK) -> None:
    """Take every mail until ``stop`` (default: SIGTERM or SIGINT) and store each in ``folder`` as ``.eml``.

    Raises:
        StackError: the port is taken.
    """
    stop = stop or stop_event()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(_serve_smtp(host, port, folder, stop))
    except OSError as error:
        raise _port_taken("mail", port) from error


def run_slack(port: int, folder: Path, stop: threading.Event | None = None, *, host: str = LOOPBACK) -> None:
    """Answer ``ok`` to every POST of JSON until ``stop`` (default: SIGTERM or SIGINT), stored as ``.json``.

    Raises:
        StackError: the port is taken.
    """
    stop = stop or stop_event()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        server = ThreadingHTTPServer((host, port), _slack_handler(folder))
    except OSError as error:
        raise _port_taken("Slack", port) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        stop.wait()
        server.shutdown()
        thread.join()


def read_mails(folder: Path) -> list[Mail]:
    """Return the mails that were caught in ``folder``, oldest first; none if nothing ever ran there."""
    return [_mail(path.read_bytes()) for path in sorted(folder.glob("*.eml"))]


def read_slack(folder: Path) -> list[SlackMessage]:
    """Return the Slack messages that were caught in ``folder``, oldest first."""
    payloads = [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    return [SlackMessage(str(payload.get("text", "")), payload) for payload in payloads]


async def _serve_smtp(host: str, port: int, folder: Path, stop: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    handler = _MailHandler(folder)
    # The host's name is given because looking it up can take seconds.
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="localhost", enable_SMTPUTF8=True, loop=loop), host, port
    )
    async with server:
        await asyncio.to_thread(stop.wait)


class _MailHandler:
    """What aiosmtpd calls; the method names are its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        recipients = ", ".join(envelope.rcpt_tos)
        headers = f"X-MailFrom: {envelope.mail_from}\r\nX-RcptTo: {recipients}\r\n"
        _store(self._folder, ".eml", headers.encode() + (envelope.original_content or b""))
        return "250 OK"


def _slack_handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), _LARGEST_BODY))
            taken = _is_object(body)
            if taken:
                _store(folder, ".json", body)
            answer = b"ok" if taken else b"invalid_payload"
            self.send_response(200 if taken else 400)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet: what arrived is in the folder."""

    return Handler


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def _store(folder: Path, suffix: str, content: bytes) -> None:
    """Write a file that appears complete or not at all; names sort by arrival."""
    name = f"{time.time_ns()}-{os.getpid()}-{next(_SERIAL):06d}{suffix}"
    scratch = folder / f".{name}.tmp"
    scratch.write_bytes(content)
    scratch.replace(folder / name)


def _mail(content: bytes) -> Mail:
    message = message_from_bytes(content, _class=EmailMessage, policy=policy.default)
    body = message.get_body(preferencelist=("plain", "html"))
    text = body.get_content().replace("\r\n", "\n") if body is not None else ""
    return Mail(
        str(message["X-MailFrom"]), str(message["X-RcptTo"]), str(message["Subject"] or ""), text.strip()
    )


def _port_taken(who: str, port: int) -> StackError:
    return StackError(
        f"port {port}, wanted by the {who} catcher, is taken: stop who has it or set another port"
    )
