"""NGINX's configuration for a split, from the templates in ``docker/nginx``: text in, text out."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Template

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint
from pipelines.settings import PROJECT_DIR

_TEMPLATES = PROJECT_DIR / "docker" / "nginx"
_KEEPS_IDLE = (1, 27, 4)
"""First version of NGINX that can leave idle connections open when it reloads."""
MOST_WAITING = 16
"""Copies that NGINX lets wait for the shadow; a slower one is not sent more."""


@dataclass(frozen=True, slots=True)
class Place:
    """How one NGINX differs from another, whatever the split."""

    listens: tuple[str, ...]
    """Where it listens, as NGINX writes it; viewers ask the first."""
    itself: str
    """Where it reaches itself and no other NGINX, as NGINX writes it before a path."""
    failures: str
    """File that answers which failed are noted in."""
    resolver: str = ""
    """Name server that is asked for the replicas' names again and again; empty: their addresses stay."""
    max_requests_per_s: int = 0
    """Requests a second from one address beyond which it gets 429; 0: no limit."""
    version: tuple[int, ...] = (1, 30)
    """Of NGINX."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The text of a configuration, and what names it."""

    text: str
    digest: str
    """NGINX answers it beside the split, so that a change that leaves the split alone is seen, too."""


def render(split: Split, place: Place) -> Configuration:
    """Return what an NGINX at ``place`` needs in its ``http`` block to follow ``split``.

    Raises:
        RouterError: there is no stable replica, or a share without a canary.
    """
    if not split.stable:
        raise RouterError("a split needs at least one stable replica; none was given")
    if split.canary is None and split.canary_percent:
        raise RouterError(f"{split.canary_percent} % of the users have no canary to meet")
    canary = (split.canary,) if split.canary else ()
    shadow = (split.shadow,) if split.shadow else ()
    # Without a share the canary is extra capacity: one more member of the stable side.
    extra = split.canary_percent == 0
    rate = place.max_requests_per_s
    values = {
        "listen": "\n    ".join(f"listen {where};" for where in place.listens),
        "itself": place.itself,
        "failures": place.failures,
        "resolver": f"resolver {place.resolver} valid=1s ipv6=off;" if place.resolver else "",
        # Without it a reload closes idle connections at once, some under a request that is on its way.
        "keep_idle": "keepalive_min_timeout 20s;" if place.version >= _KEEPS_IDLE else "",
        "counted_as": "$binary_remote_addr" if rate else "",
        "rate": rate or 1,
        "share": f"{split.canary_percent}% canary;" if split.canary_percent else "",
        "stable_servers": _servers(place, split.stable) + _servers(place, canary, backup=not extra),
        "canary_servers": _servers(place, canary) + _servers(place, split.stable, backup=bool(canary)),
        "shadow_servers": _servers(place, shadow, f" max_conns={MOST_WAITING}"),
        "somebody": split.stable[0],
        "canary_percent": split.canary_percent,
        "fingerprint": fingerprint(split),
    }
    parts = {part: fill(part, values) if shadow else "" for part in ("mirror", "shadow")}
    values |= parts
    digest = hashlib.sha256(fill("site", values | {"digest": ""}).encode()).hexdigest()[:16]
    return Configuration(fill("site", values | {"digest": digest}), digest)


def fill(name: str, values: Mapping[str, object]) -> str:
    """Return the template ``name`` with ``values`` in it."""
    return Template((_TEMPLATES / f"{name}.conf.template").read_text()).substitute(values)


def _servers(place: Place, addresses: Iterable[str], more: str = "", *, backup: bool = False) -> str:
    # Never set aside: a replica that restarts is back before NGINX would look again, and with the next one
    # restarting by then nobody would be left (502s, measured). A refused connection costs next to nothing.
    suffix = (" resolve" if place.resolver else "") + (" backup" if backup else "")
    return "".join(f"\n    server {address} max_fails=0{more}{suffix};" for address in addresses)
