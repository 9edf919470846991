"""Asking for a recommendation as the real caller does: one connection, one line, 800 ms of patience."""

import http.client
import random
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from pipelines.errors import StackError
from pipelines.events.grammar import Request

PATIENCE_S = 0.8
_LONGEST_ANSWER = 8_000
"""Characters: 20 of the longest ids; an error page is cut here."""


@dataclass(frozen=True, slots=True)
class Call:
    """One finished recommendation request."""

    asked: str
    """The user as it stood in the address, valid or not."""
    request: Request
    """What the stream tells of it; its ``user_id`` is 0 where ``asked`` is no number."""
    version: str
    """The version that answered (``X-Marquee-Version``); empty where none said so."""

    @property
    def answered(self) -> bool:
        """Whether an answer came in time and was good."""
        return self.request.status == 200 and bool(self.request.movie_ids)

    def line(self, not_before: datetime, rng: random.Random) -> str:
        """Write the call as the stream does, with 0, 3, 6 or 9 digits of a second, in order of arrival."""
        digits = rng.choice((0, 3, 3, 3, 6, 9))
        coarse_us = {0: 1_000_000, 3: 1_000}.get(digits, 1)
        at = max(self.request.time, not_before)
        at = at.replace(microsecond=at.microsecond // coarse_us * coarse_us)
        written, _, rest = replace(self.request, time=at).line().split(",", 2)
        nanoseconds = f"{rng.randrange(1_000):03}" if digits == 9 and at.microsecond else ""
        return f"{written}{nanoseconds},{self.asked},{rest}"


class Caller:
    """Asks one address; safe to share among threads."""

    def __init__(self, recommend_url: str) -> None:
        """Take the address without the user id.

        Raises:
            StackError: it is no http address.
        """
        parts = urlsplit(recommend_url)
        if parts.scheme != "http" or not parts.hostname:
            raise StackError(f"{recommend_url!r} is no address like http://127.0.0.1:8082/recommend")
        self.host = parts.hostname
        self.port = parts.port or 80
        self._path = parts.path.rstrip("/")

    def ask(self, user: str) -> Call:
        """Ask once and wait ``PATIENCE_S`` at most; whatever happens becomes a `Call`."""
        started = time.monotonic()
        status, version = 0, ""
        try:
            status, body, version = self._get(user, started + PATIENCE_S)
        except TimeoutError:
            body = (
                "java.util.concurrent.TimeoutException: "
                f"Request timeout to {self.host}/{self.host}:{self.port} after {PATIENCE_S * 1_000:.0f} ms"
            )
        except OSError as error:
            body = f"java.net.ConnectException: {error.strerror or type(error).__name__}"
        except http.client.HTTPException as error:
            body = f"java.io.IOException: {type(error).__name__}"
        took_s = time.monotonic() - started
        # An answer that came too late is told as it is, but counts as none.
        return self._call(user, 0 if took_s > PATIENCE_S else status, body, version, took_s)

    def _get(self, user: str, deadline: float) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=deadline - time.monotonic())
        try:
            connection.request("GET", f"{self._path}/{quote(user, safe='')}")
            if connection.sock is not None:
                connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
            response = connection.getresponse()
            body = response.read().decode("utf-8", "replace")
            return response.status, body, response.headers.get("X-Marquee-Version", "")
        finally:
            connection.close()

    def _call(self, user: str, status: int, body: str, version: str, took_s: float) -> Call:
        text = " ".join(body.split())[:_LONGEST_ANSWER]
        ids = tuple(part.strip() for part in text.split(","))
        if not all("+" in movie and " " not in movie for movie in ids):
            ids = ()
        request = Request(
            time=datetime.now(UTC),
            user_id=int(user) if user.isdecimal() else 0,
            host=self.host,
            port=self.port,
            status=status,
            movie_ids=ids,
            error="" if ids else text or "no answer",
            response_ms=round(took_s * 1_000),
        )
        return Call(user, request, version)
