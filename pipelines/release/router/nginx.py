"""What every NGINX has in common: write, have it taken, read back; what it does not take is put back."""

import time
from abc import ABC, abstractmethod
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
    """An NGINX that reads a file of ours and tells at ``status_at`` (host:port) what it follows."""

    def __init__(
        self, file: Path, *, status_at: str, log: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Do nothing yet; ``log`` is where a person finds what NGINX says."""
        self._file = file
        self._status_at = status_at
        self._log = log
        self._transport = transport

    def apply(self, split: Split) -> None:
        """Write, reload if running, read back; nothing at all when ``split`` is followed already."""
        wanted, before = self._render(split), self._on_disk()
        if before == wanted.text and self._asked()[1] == wanted.digest:
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
        """Ask NGINX which split it follows."""
        return self._asked()[0]

    @abstractmethod
    def _render(self, split: Split) -> Configuration:
        """Return what the file is to say."""

    @abstractmethod
    def _reload(self) -> bool:
        """Have NGINX read its file anew; False: none runs, and the next one to start reads it anyway."""

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

    @cached_property
    def _client(self) -> httpx.Client:
        # A kept connection would be answered by an old worker: a reload shows on new ones only.
        headers = {"Connection": "close"}
        return httpx.Client(transport=self._transport, timeout=2.0, headers=headers, trust_env=False)

    def _asked(self) -> tuple[str, str]:
        """Return the split in force and the configuration's digest; empty: NGINX does not answer."""
        try:
            response = self._client.get(f"http://{self._status_at}/split").raise_for_status()
        except httpx.HTTPError:
            return "", ""
        return response.text.strip(), response.headers.get("X-Marquee-Configuration", "")

    def _wait_for(self, split: Split, wanted: Configuration) -> None:
        deadline = time.monotonic() + _TAKE_EFFECT_S
        followed_since = None
        while followed_since is None or time.monotonic() < followed_since + _OLD_WORKERS_S:
            said, digest = self._asked()
            if digest == wanted.digest:
                followed_since = followed_since or time.monotonic()
            else:
                followed_since = None
                if refusal := self._refusal():
                    raise RouterError(f"NGINX refused {self._file}: {refusal}; the split is unchanged")
                if time.monotonic() > deadline:
                    raise RouterError(
                        f"NGINX at {self._status_at} still follows {said or 'nothing'!r} "
                        f"{_TAKE_EFFECT_S:.0f} s after the reload; {fingerprint(split)!r} was wanted; "
                        f"see {self._log}"
                    )
            time.sleep(_LOOK_EVERY_S)
