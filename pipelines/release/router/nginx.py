"""What every NGINX has in common: write, have it taken, read back; what it does not take is put back."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import httpx

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint
from pipelines.release.router.configuration import Configuration

_TAKE_EFFECT_S = 10.0
_LOOK_EVERY_S = 0.05
_OLD_WORKERS_S = 0.2
"""For 100 ms after the new workers have started, the old ones take new connections, too."""


class Nginx(ABC):
    """What reads a file of ours and tells at ``status_at`` (host:port) what it follows: one NGINX or more."""

    def __init__(
        self, file: Path, *, status_at: Sequence[str], log: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Do nothing yet; ``status_at`` has an address for each, ``log`` is where a person finds theirs."""
        self._file = file
        self._status_at = status_at
        self._log = log
        self._transport = transport

    def apply(self, split: Split) -> None:
        """Write, reload if running, read back; nothing at all when ``split`` is followed already."""
        wanted, before = self._render(split), self._on_disk()
        if before == wanted.text and _digests(self._asked()) == {wanted.digest}:
            return
        self._write(wanted.text)
        try:
            if self._reload():
                self._wait_for(split, wanted)
        except RouterError:
            # NGINX goes on with what it had, but could not start with this.
            self._put_back(before)
            raise

    def current(self) -> str:
        """Ask NGINX which split it follows; two that follow different ones are both told of."""
        return _texts(self._asked())

    @abstractmethod
    def _render(self, split: Split) -> Configuration:
        """Return what the file is to say."""

    @abstractmethod
    def _reload(self) -> bool:
        """Have all that run read their file anew; False: none does, and the next to start reads it anyway."""

    @abstractmethod
    def _check(self, candidate: Path) -> None:
        """Raise RouterError if it can be told beforehand that NGINX would not take ``candidate``."""

    @abstractmethod
    def _refusal(self) -> str:
        """Return why NGINX did not take what it was last told to read; empty: it has not said so."""

    def _write(self, text: str) -> None:
        """Put a configuration into place without telling a running NGINX."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        candidate = self._file.with_name(f"{self._file.name}.new")
        candidate.write_text(text)
        self._check(candidate)
        candidate.replace(self._file)

    def _on_disk(self) -> str | None:
        return self._file.read_text() if self._file.exists() else None

    def _put_back(self, before: str | None) -> None:
        if before is None:
            self._file.unlink()
        else:
            self._write(before)
            # One of two may have taken what the other did not.
            with suppress(RouterError):
                self._reload()

    @cached_property
    def _client(self) -> httpx.Client:
        # A kept connection would be answered by an old worker: a reload shows on new ones only.
        headers = {"Connection": "close"}
        return httpx.Client(transport=self._transport, timeout=2.0, headers=headers, trust_env=False)

    def _asked(self) -> list[tuple[str, str]]:
        """Return the split in force and the configuration's digest of each that runs; empty: it says none."""
        answers = []
        for address in self._status_at:
            try:
                response = self._client.get(f"http://{address}/split").raise_for_status()
            except httpx.ConnectError:
                # Nobody listens: who is dead reads the file when it starts.
                continue
            except httpx.HTTPError:
                answers.append(("", ""))
            else:
                answers.append((response.text.strip(), response.headers.get("X-Marquee-Configuration", "")))
        return answers

    def _wait_for(self, split: Split, wanted: Configuration) -> None:
        deadline = time.monotonic() + _TAKE_EFFECT_S
        followed_since = None
        while followed_since is None or time.monotonic() < followed_since + _OLD_WORKERS_S:
            answers = self._asked()
            if _digests(answers) == {wanted.digest}:
                followed_since = followed_since or time.monotonic()
            else:
                followed_since = None
                if refusal := self._refusal():
                    raise RouterError(f"NGINX refused {self._file}: {refusal}; the split is unchanged")
                if time.monotonic() > deadline:
                    said = _texts(answers) or "nothing"
                    raise RouterError(
                        f"NGINX at {', '.join(self._status_at)} still follows {said!r} "
                        f"{_TAKE_EFFECT_S:.0f} s after the reload; {fingerprint(split)!r} was wanted; "
                        f"see {self._log}"
                    )
            time.sleep(_LOOK_EVERY_S)


def _texts(answers: Sequence[tuple[str, str]]) -> str:
    return " / ".join(sorted({text for text, _ in answers}))


def _digests(answers: Sequence[tuple[str, str]]) -> set[str]:
    return {digest for _, digest in answers}
