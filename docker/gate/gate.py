"""The gate before the Docker socket: it lets the calls through that deploy replicas, and nothing else.

Who may write to the socket of Docker owns the machine, so only this program can. It listens on TCP, takes
one request a connection, and holds it against `RULES`; what no rule names is refused. What passes is not the
request as it came: method, path, query, headers and JSON are written anew from what was understood,
containers are named by the id that was looked up, and nothing that follows the request is ever passed on. So
there is no second reading of the same bytes. Answers stream back as they come.

The environment says whose gate it is: MARQUEE_COMPOSE_PROJECT (required), MARQUEE_SERVING_REPOSITORY, and
MARQUEE_GATE_IMAGES (comma-separated: what may be run beside the images built here).
"""

import asyncio
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlencode

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
TASK = "marquee.task"
VERSION = "marquee.version"

REPLICAS = ("stable-1", "stable-2", "canary", "shadow")
NGINX = ("nginx", "nginx-spare")
VOLUMES = ("state", "spool", "recents", "shadow")
"""Named volumes of the project that may be mounted: not the databases', not Airflow's."""
NETWORKS = ("marquee",)
"""Networks of the project that may be joined: not the way out, not the way to this gate."""


class Need(StrEnum):
    """What must hold before a call is passed on."""

    NOTHING = "no condition"
    LISTING = "any; the answer is narrowed to the project"
    INSPECT = "a container of the project; the environment is shown of replicas and trainings only"
    OURS = "a container of the project"
    DEPLOYED = "a replica or a training of the project"
    SAYS = "a replica, a training or NGINX of the project"
    REPLICA = "a replica of the project, and a name of its own"
    NGINX = "NGINX of the project, and signal HUP"
    CREATE = "a replica or a training that `judge_create` has nothing against"
    BUILD = "an image of a version (tag vN), from what is sent; it gets no network"
    SERVING_IMAGE = "an image of a version"


@dataclass(frozen=True, slots=True)
class Rule:
    """One call that is let through."""

    method: str
    path: str
    need: Need
    queries: str
    """Parameters that may be there, by name."""
    why: str


# fmt: off
RULES = (
    Rule("GET", "/_ping", Need.NOTHING, "", "whether Docker answers; health of this gate"),
    Rule("HEAD", "/_ping", Need.NOTHING, "", "the same, as the docker command asks"),
    Rule("GET", "/version", Need.NOTHING, "", "which API both sides speak"),
    Rule("GET", "/containers/json", Need.LISTING, "all limit size filters trunc_cmd", "what is deployed"),
    Rule("GET", "/events", Need.LISTING, "since until filters", "the keeper: who was killed, who stopped"),
    Rule("GET", "/containers/{container}/json", Need.INSPECT, "", "state, place and labels"),
    Rule("GET", "/containers/{container}/logs", Need.SAYS,
         "follow stdout stderr since until timestamps tail", "why a replica is not ready, or NGINX refuses"),
    Rule("POST", "/containers/create", Need.CREATE, "name platform", "a replica of a version; a training"),
    Rule("POST", "/containers/{container}/start", Need.OURS, "", "deploy; the keeper, after a docker kill"),
    Rule("POST", "/containers/{container}/stop", Need.DEPLOYED, "t", "old replicas, cancelled trainings"),
    Rule("POST", "/containers/{container}/restart", Need.DEPLOYED, "t", "a replica that hangs"),
    Rule("POST", "/containers/{container}/wait", Need.DEPLOYED, "condition", "the end of a training"),
    Rule("POST", "/containers/{container}/attach", Need.DEPLOYED, "logs stdout stderr stream", "its log"),
    Rule("POST", "/containers/{container}/rename", Need.REPLICA, "name", "start first, then stop"),
    Rule("DELETE", "/containers/{container}", Need.DEPLOYED, "v force link", "what was replaced; orphans"),
    Rule("POST", "/containers/{container}/kill", Need.NGINX, "signal", "NGINX reads its configuration again"),
    Rule("POST", "/build", Need.BUILD,
         "t q nocache rm forcerm pull dockerfile labels networkmode", "an image of each version"),
    Rule("GET", "/images/json", Need.NOTHING, "all filters only_ids digests", "which versions are packed"),
    Rule("GET", "/images/{image}/json", Need.NOTHING, "", "id and labels of an image"),
    Rule("POST", "/images/{image}/tag", Need.SERVING_IMAGE, "repo tag force", "a model under its version"),
    Rule("DELETE", "/images/{image}", Need.SERVING_IMAGE, "force noprune", "versions nobody goes back to"),
)
# fmt: on

LARGEST_HEAD_BYTES = 16 * 2**10
LARGEST_JSON_BYTES = 2**20
LARGEST_CONTEXT_BYTES = 4 * 2**30
"""Of a build: ten times a large model."""
LARGEST_ANSWER_BYTES = 16 * 2**20
"""Of what this gate itself asks Docker."""
MOST_CONNECTIONS = 256
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 60.0
"""Longest silence in the middle of a body; answers may be silent for hours."""
LOOKUP_TIMEOUT_S = 30.0
LINGER_S = 5.0
_PIECE_BYTES = 64 * 2**10

_REQUEST_LINE = re.compile(r"([A-Z]{3,7}) (/[!-~]*) HTTP/1\.1")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~](?:[\t -~]*[!-~])?)?)[ \t]*")
_PATH = re.compile(r"(?:/v1\.(?:4[0-9]|[5-9][0-9]))?(?P<rest>(?:/[A-Za-z0-9_.:@-]+)+)")
_NAMES = {
    "{container}": r"(?P<container>[A-Za-z0-9][A-Za-z0-9_.-]{0,254})",
    "{image}": r"(?P<image>[a-z0-9][a-z0-9._/:@-]{0,254})",
}
_FALSE = ("", "0", "no", "false", "none")  # what Docker takes for no


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """The request is answered by the gate itself."""

    def __init__(self, status: int, message: str) -> None:
        """Refuse with an HTTP status and what was observed and is allowed."""
        super().__init__(message)
        self.status = status


def refused(observed: str, allowed: str) -> Refusal:
    """Return the refusal of what was understood and is not allowed."""
    return Refusal(403, f"gate: {observed}; allowed: {allowed}")


def malformed(observed: str) -> Refusal:
    """Return the refusal of what cannot be understood in one way only."""
    return Refusal(400, f"gate: {observed}; wanted is one plain HTTP/1.1 request a connection")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was understood."""

    method: str
    path: str
    """Without query; with the version of the API where there was one."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    length: int | None = 0
    """Bytes of the body; None: it comes in chunks."""

    @property
    def rest(self) -> str:
        """The path without the version of the API."""
        found = _PATH.fullmatch(self.path)
        return found["rest"] if found else self.path


@dataclass(frozen=True, slots=True)
class Container:
    """A container as Docker describes it."""

    id: str
    name: str
    labels: Mapping[str, str]
    described: dict[str, Any] = field(repr=False)

    @property
    def is_training(self) -> bool:
        """Whether a task of Airflow runs in it."""
        return TASK in self.labels and not self.labels.get(SERVICE)

    @property
    def is_replica(self) -> bool:
        """Whether it answers viewers, or keeps the place of one that does."""
        return self.labels.get(SERVICE) in REPLICAS

    @property
    def is_deployed(self) -> bool:
        """Whether it was made through this gate, or may be."""
        return self.is_replica or self.is_training


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose gate this is."""

    project: str
    repository: str = "marquee-serving"
    images: tuple[str, ...] = ("python:3.13-slim-trixie", "marquee-airflow")

    @property
    def version_image(self) -> re.Pattern[str]:
        """Names of the images of versions."""
        return re.compile(rf"{re.escape(self.repository)}:v[0-9]{{1,9}}")

    def knows(self, image: str) -> bool:
        """Say whether containers may be made from the image of this name."""
        plain = (*self.images, *(f"{name}:latest" for name in self.images if ":" not in name))
        return image in plain or self.version_image.fullmatch(image) is not None


@dataclass(frozen=True, slots=True)
class Passed:
    """What goes on to Docker, or what the gate answers in its place."""

    path: str
    query: dict[str, str]
    body: bytes | None = None
    """In place of the body that came; None: that one is passed on."""
    answer: bytes | None = None
    note: str = ""
    """For the log."""


# --- understanding a request --------------------------------------------------------------------


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
    path, _, query = first[2].partition("?")
    return Request(first[1], _path(path), _query(query), headers, _length(headers))


def _path(path: str) -> str:
    found = _PATH.fullmatch(path)
    if found is None or any(part in {".", ".."} for part in path.split("/")):
        raise malformed(f"path {path[:80]!r}")
    return path


def _query(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32
        )
    except ValueError:
        if query:
            raise malformed("a query that cannot be read") from None
        pairs = []
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


def rule_of(request: Request) -> tuple[Rule, dict[str, str]]:
    """Return the rule that a request falls under and the name in its path.

    Raises:
        Refusal: there is none, or the request carries what the rule does not name.
    """
    for rule in RULES:
        found = _pattern(rule).fullmatch(request.rest)
        if found and rule.method == request.method:
            _see_that_it_fits(request, rule)
            return rule, found.groupdict()
    calls = "those in the table of docker/gate/gate.py"
    raise refused(f"{request.method} {request.rest}", calls)


def _pattern(rule: Rule) -> re.Pattern[str]:
    pattern = re.escape(rule.path).replace(r"\{", "{").replace(r"\}", "}")
    for name, expression in _NAMES.items():
        pattern = pattern.replace(name, expression)
    return re.compile(pattern)


def _see_that_it_fits(request: Request, rule: Rule) -> None:
    strange = sorted(set(request.query) - set(rule.queries.split()))
    if strange:
        raise refused(f"{rule.method} {rule.path} with parameter {strange[0][:40]!r}", rule.queries or "none")
    has_body = rule.need in {Need.CREATE, Need.BUILD}
    if request.length != 0 and not has_body:
        # Docker once took a HostConfig with /start.
        raise refused(f"{rule.method} {rule.path} with a body", "no body")
    most = LARGEST_CONTEXT_BYTES if rule.need is Need.BUILD else LARGEST_JSON_BYTES
    if (request.length or 0) > most:
        raise Refusal(413, f"gate: a body of {request.length} bytes; allowed: {most}")
    upgrade = request.headers.get("upgrade")
    if upgrade is not None and not (rule.path.endswith("/attach") and upgrade == "tcp"):
        raise refused(f"{rule.method} {rule.path} with an upgrade to {upgrade[:20]!r}", "tcp, for attach")


# --- judging it -----------------------------------------------------------------------------------


def container_of(described: dict[str, Any]) -> Container:
    """Return what Docker's description of a container says."""
    labels = described["Config"]["Labels"] or {}
    return Container(described["Id"], described["Name"].removeprefix("/"), labels, described)


def see_container(rule: Rule, container: Container, query: Mapping[str, str], policy: Policy) -> None:
    """Refuse a call that ``rule`` does not allow for this container."""
    service = container.labels.get(SERVICE)
    if container.labels.get(PROJECT) != policy.project:
        raise refused(f"{rule.method} on {container.name}, of another project", f"project {policy.project}")
    says = container.is_deployed or (rule.need is Need.SAYS and service in NGINX)
    if rule.need in {Need.DEPLOYED, Need.SAYS} and not says:
        raise refused(f"{rule.method} {rule.path} of {container.name} (service {service})", rule.need)
    if rule.need is Need.NGINX and (service not in NGINX or query.get("signal") not in {"HUP", "SIGHUP"}):
        raise refused(f"kill of {container.name} with signal {query.get('signal', 'KILL')[:20]!r}", rule.need)
    if rule.need is Need.REPLICA:
        own = f"{policy.project}-{service}-1"
        if not container.is_replica or not re.fullmatch(
            rf"{re.escape(own)}(-[a-z]+)?", query.get("name", "")
        ):
            raise refused(
                f"rename of {container.name} to {query.get('name', '')[:60]!r}", f"{own}, {own}-next"
            )
    if query.get("link", "").lower() not in _FALSE:
        raise refused("removal of a link", "removal of a container")


def shown(container: Container) -> bytes | None:
    """Return the description of a container whose environment is nobody's business, else None."""
    if container.is_deployed:
        return None
    config = {**container.described["Config"], "Env": []}
    return json.dumps({**container.described, "Config": config}).encode()


def narrowed(query: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """Return the parameters of a list that shows containers of the project only."""
    filters = read_json(query.get("filters", "") or "{}")
    labels = filters.get("label") or []
    # An older form: {"label": {"a=b": true}}.
    wanted = [
        f"{PROJECT}={policy.project}",
        *(labels if isinstance(labels, list) else [k for k in labels if labels[k]]),
    ]
    return {**query, "filters": json.dumps({**filters, "label": wanted})}


def judge_build(query: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """Return the parameters with which an image may be built."""
    tag = query.get("t", "")
    if not policy.version_image.fullmatch(tag):
        raise refused(f"build of {tag[:80]!r}", f"{policy.repository}:v<number>")
    if query.get("pull", "").lower() not in _FALSE:
        raise refused("build that pulls", "build from images of this machine")
    if query.get("networkmode", "") not in {"", "none", "default"}:
        raise refused(f"build in network {query['networkmode'][:40]!r}", "none")
    if not re.fullmatch(r"[A-Za-z0-9._-]*", query.get("dockerfile", "")):
        raise refused(f"Dockerfile {query['dockerfile'][:40]!r}", "a file at the top of the context")
    return {**query, "networkmode": "none"}


def see_image(image: str, described: Mapping[str, Any] | None, policy: Policy) -> None:
    """Refuse what is neither the name of a version's image nor the id of one."""
    if policy.version_image.fullmatch(image):
        return
    if described is None or not _is_of_a_version(described, policy):
        raise refused(f"image {image[:80]!r}", f"{policy.repository}:v<number>, or the id of one")


def _is_of_a_version(described: Mapping[str, Any], policy: Policy) -> bool:
    tags = described.get("RepoTags") or []
    labels = (described.get("Config") or {}).get("Labels") or {}
    return VERSION in labels or any(policy.version_image.fullmatch(tag) for tag in tags)


def read_json(text: str) -> dict[str, Any]:
    """Return the object in ``text``; refused are other values and a key that is there twice."""
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(f"JSON that cannot be read ({str(error)[:80]})") from None
    if not isinstance(value, dict):
        raise malformed("JSON that is no object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Docker takes "hostconfig" for "HostConfig", and the last of several.
    keys = [key.lower() for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(name)


# --- judging a container to be made ---------------------------------------------------------------

_Sees = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_one_of(*allowed: Any) -> _Sees:
    return lambda value: value in allowed


def _are_all_of(*allowed: str) -> _Sees:
    return lambda value: _is_texts(value) and set(value) <= set(allowed)


def _is_command(value: Any) -> bool:
    return _is_text(value) or _is_texts(value)


def _maps(value: Any, key: str, item: _Sees) -> bool:
    return isinstance(value, dict) and all(re.fullmatch(key, k) and item(v) for k, v in value.items())


def _is_log(value: Any) -> bool:
    kind, options = value.get("Type") or "json-file", value.get("Config") or {}
    known = set(value) <= {"Type", "Config"} and kind in {"json-file", "local"}
    return known and _maps(options, "max-size|max-file|compress", _is_text)


def _is_restart(value: Any) -> bool:
    names = ("", "no", "always", "unless-stopped", "on-failure")
    return set(value) <= {"Name", "MaximumRetryCount"} and value.get("Name", "") in names


def _are_limits(value: Any) -> bool:
    return isinstance(value, list) and all(set(limit) <= {"Name", "Soft", "Hard"} for limit in value)


def _is_tmpfs(value: Any) -> bool:
    return _maps(value, r"/[^:]*", _is_text)


CONFIG: dict[str, _Sees] = {
    "Hostname": _is_text,
    "User": _is_text,
    "AttachStdout": _is_flag,
    "AttachStderr": _is_flag,
    "Tty": _is_flag,
    "Env": _is_texts,
    "Cmd": _is_command,
    "Entrypoint": _is_command,
    "Image": _is_text,
    "WorkingDir": _is_text,
    "Labels": lambda value: _maps(value, ".+", _is_text),
    "Healthcheck": lambda value: isinstance(value, dict),
    "StopSignal": _is_text,
    "StopTimeout": _is_count,
    "ExposedPorts": lambda value: _maps(value, "[0-9]{1,5}/tcp", lambda port: port == {}),
    "Runtime": _is_one_of("runc"),
    "HostConfig": lambda value: isinstance(value, dict),
    "NetworkingConfig": lambda value: isinstance(value, dict),
}
"""Every key of a new container that may hold something, and what."""

HOST_CONFIG: dict[str, _Sees] = {
    "Binds": _is_texts,
    "Mounts": lambda value: isinstance(value, list),
    "NetworkMode": _is_text,
    "LogConfig": _is_log,
    "RestartPolicy": _is_restart,
    "AutoRemove": _is_flag,
    "CapDrop": _is_texts,
    "SecurityOpt": _are_all_of("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"),
    "ReadonlyRootfs": _is_flag,
    "Tmpfs": _is_tmpfs,
    "Init": _is_flag,
    "IpcMode": _is_one_of("private", "none"),
    "Runtime": _is_one_of("runc"),
    "Isolation": _is_one_of("default"),
    "ConsoleSize": _is_one_of([0, 0]),
    "OomScoreAdj": lambda value: _is_count(value) and value <= 1000,
    "Ulimits": _are_limits,
    "ShmSize": _is_count,
    "Memory": _is_count,
    "MemoryReservation": _is_count,
    "MemorySwap": lambda value: _is_count(value) or value == -1,
    "MemorySwappiness": _is_count,
    "NanoCpus": _is_count,
    "CpuShares": _is_count,
    "CpuPeriod": _is_count,
    "CpuQuota": _is_count,
    "PidsLimit": _is_count,
    "BlkioWeight": _is_count,
}
"""The same for its place on this machine."""

DAEMON_DECIDES = ("MaskedPaths", "ReadonlyPaths", "CgroupnsMode")
"""Never passed on, so that Docker's own defaults hold: an empty list would unmask /proc."""


def judge_create(body: Mapping[str, Any], name: str, policy: Policy) -> dict[str, Any]:
    """Return the description from which a container may be made; the image's id is still to be looked at.

    Raises:
        Refusal: it is neither a replica nor a training, or asks for more than these need.
    """
    config = _known(body, CONFIG, "")
    labels = config.get("Labels", {})
    if labels.get(PROJECT) != policy.project:
        raise refused(f"label {PROJECT}={labels.get(PROJECT)!r}", policy.project)
    # Empty in a training: without it Docker takes the label that compose gave the image.
    service = labels.get(SERVICE) or None
    if service is None and TASK in labels:
        names, aliases = rf"({re.escape(policy.project)}-train[A-Za-z0-9_.-]*)?", r"(?!)"
    elif service in REPLICAS:
        own = re.escape(f"{policy.project}-{service}-1")
        names, aliases = rf"{own}(-[a-z]+)?", rf"{service}|{own}|[0-9a-f]{{12}}"
    else:
        raise refused(f"a container of service {service!r}", f"{', '.join(REPLICAS)}, or label {TASK} alone")
    if not re.fullmatch(names, name):
        raise refused(f"container name {name[:60]!r}", names.replace("\\", ""))
    if not re.fullmatch(r"[1-9][0-9]*(:[1-9][0-9]*)?", config.get("User", "")):
        raise refused(
            f"user {config.get('User', '')[:40]!r}", "a user and a group by number, neither of them root"
        )
    host = _known(config.get("HostConfig", {}), HOST_CONFIG, "HostConfig.")
    for bind in host.get("Binds", []):
        _see_bind(bind, policy)
    for mount in host.get("Mounts", []):
        _see_mount(mount, policy)
    _see_network(host.get("NetworkMode", "default"), policy)
    networking = _networking(config.get("NetworkingConfig", {}), aliases, policy)
    return {**config, "HostConfig": host, "NetworkingConfig": networking}


def _known(given: Mapping[str, Any], sees: Mapping[str, _Sees], where: str) -> dict[str, Any]:
    """Return what holds something; Docker's defaults stand for what is empty."""
    kept = {}
    for key, value in given.items():
        if not value or key in DAEMON_DECIDES:
            continue
        if key not in sees:
            raise refused(
                f"{where}{key[:40]} in a new container", f"nothing there; known are {', '.join(sees)}"
            )
        try:
            fits = sees[key](value)
        except (AttributeError, TypeError):
            fits = False
        if not fits:
            raise refused(
                f"{where}{key}={json.dumps(value)[:80] if key != 'Env' else '(hidden)'}", "see HOST_CONFIG"
            )
        kept[key] = value
    return kept


def _see_bind(bind: str, policy: Policy) -> None:
    source, _, rest = bind.partition(":")
    target, _, mode = rest.partition(":")
    _see_volume(source, bind, policy)
    if not target.startswith("/") or mode not in {"", "rw", "ro"}:
        raise refused(f"mount {bind[:80]!r}", "<volume>:/<path>:rw or ro")


def _see_mount(mount: Any, policy: Policy) -> None:
    given = {key: value for key, value in mount.items() if value} if isinstance(mount, dict) else {}
    if set(given) - {"Type", "Source", "Target", "ReadOnly"}:
        raise refused(f"mount with {', '.join(sorted(given))[:80]}", "Type, Source, Target, ReadOnly")
    kind = given.get("Type")
    if kind == "tmpfs" and "Source" not in given:
        return
    if kind != "volume":
        raise refused(f"mount of type {kind!r:.40}", "volume, tmpfs")
    _see_volume(given.get("Source"), given.get("Source"), policy)


def _see_volume(volume: Any, observed: Any, policy: Policy) -> None:
    allowed = [f"{policy.project}_{name}" for name in VOLUMES]
    if volume not in allowed:
        raise refused(f"mount {observed!r:.80}", f"the volumes {', '.join(allowed)}")


def _see_network(network: str, policy: Policy) -> None:
    allowed = [f"{policy.project}_{name}" for name in NETWORKS]
    if network not in allowed:
        raise refused(f"network {network[:60]!r}", ", ".join(allowed))


def _networking(given: Mapping[str, Any], aliases: str, policy: Policy) -> dict[str, Any]:
    known = _known(given, {"EndpointsConfig": lambda value: isinstance(value, dict)}, "NetworkingConfig.")
    endpoints = {}
    for network, endpoint in known.get("EndpointsConfig", {}).items():
        _see_network(network, policy)
        endpoints[network] = _known(endpoint or {}, {"Aliases": _is_texts}, "EndpointsConfig.")
        for alias in endpoints[network].get("Aliases", []):
            # Under another's name it would be taken for the other.
            if not re.fullmatch(aliases, alias):
                raise refused(f"network alias {alias[:60]!r}", "the replica's own name")
    return {"EndpointsConfig": endpoints}


# --- passing it on --------------------------------------------------------------------------------


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
            await _answer(reader, writer, refusal.status, {"message": str(refusal)})
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
        head = await _head(reader)
        if not head:
            return
        request = parse_head(head)
        rule, names = rule_of(request)
        passed = await self._judge(request, rule, names, reader)
        if passed.answer is not None:
            await _answer(reader, writer, 200, passed.answer)
            return
        began_s = time.monotonic()
        status = await self._pass_on(request, rule, passed, reader, writer)
        if rule.method in {"POST", "DELETE"}:
            took_s = time.monotonic() - began_s
            what = rule.path.rpartition("}")[2] or rule.path
            log(f"passed {who} {rule.method} {what} {passed.note}: {status}, {took_s:.1f} s")

    async def _judge(
        self, request: Request, rule: Rule, names: dict[str, str], reader: asyncio.StreamReader
    ) -> Passed:
        policy, path, query = self._policy, request.path, request.query
        if rule.need is Need.LISTING:
            return Passed(path, narrowed(query, policy))
        if rule.need is Need.BUILD:
            return Passed(path, judge_build(query, policy), note=query["t"])
        if rule.need is Need.CREATE:
            return await self._judge_create(request, reader)
        if rule.need is Need.SERVING_IMAGE:
            return await self._judge_image(request, rule, names["image"])
        if "container" not in names:
            return Passed(path, query)
        container = container_of(await self._ask(f"/containers/{names['container']}/json"))
        see_container(rule, container, query, policy)
        # By its id, so that nobody can give the name to another in between.
        by_id = f"/containers/{container.id}".join(path.rsplit(f"/containers/{names['container']}", 1))
        answer = shown(container) if rule.need is Need.INSPECT else None
        return Passed(by_id, query, answer=answer, note=f"{container.name} {query.get('name', '')}".rstrip())

    async def _judge_create(self, request: Request, reader: asyncio.StreamReader) -> Passed:
        if request.length is None:
            raise refused("a new container in chunks", "content-length")
        if request.query.get("platform"):
            raise refused("a platform", "that of this machine")
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                text = (await reader.readexactly(request.length)).decode()
        except (TimeoutError, asyncio.IncompleteReadError, UnicodeDecodeError):
            raise malformed("a body that is not whole") from None
        name = request.query.get("name", "")
        body = judge_create(read_json(text), name, self._policy)
        image = body.get("Image", "")
        if not self._policy.knows(image):
            allowed = (
                f"{self._policy.repository}:v<number> or the id of one, {', '.join(self._policy.images)}"
            )
            if not re.fullmatch("sha256:[0-9a-f]{64}", image):
                raise refused(f"image {image[:80]!r}", allowed)
            described = await self._ask(f"/images/{image}/json")
            tagged = any(self._policy.knows(tag) for tag in described.get("RepoTags") or [])
            if not tagged and not _is_of_a_version(described, self._policy):
                raise refused(f"image {image[:80]!r}", allowed)
        return Passed(
            request.path, {"name": name} if name else {}, json.dumps(body).encode(), note=f"{name} {image}"
        )

    async def _judge_image(self, request: Request, rule: Rule, image: str) -> Passed:
        is_id = re.fullmatch("sha256:[0-9a-f]{64}", image)
        see_image(image, await self._ask(f"/images/{image}/json") if is_id else None, self._policy)
        if rule.method == "POST":
            target = f"{request.query.get('repo', '')}:{request.query.get('tag', '')}"
            see_image(target, None, self._policy)
            return Passed(request.path, request.query, note=target)
        return Passed(request.path, request.query, note=image)

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
            raise _away(error) from error
        if status != 200:
            raise Refusal(status, str(said.get("message", "")))
        return dict(said)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_unix_connection(self._docker, limit=LARGEST_HEAD_BYTES)
        except OSError as error:
            raise _away(error) from error

    async def _pass_on(
        self,
        request: Request,
        rule: Rule,
        passed: Passed,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> int:
        """Relay one exchange and return the status that Docker answered with."""
        from_docker, to_docker = await self._open()
        try:
            to_docker.write(_head_for_docker(request, passed))
            answer = asyncio.create_task(
                _relay_answer(from_docker, writer, upgraded="upgrade" in request.headers)
            )
            body = asyncio.create_task(_relay_body(request, passed, reader, to_docker))
            # The body ends with the caller: who is gone waits for no answer.
            await asyncio.wait({answer, body}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and body.done() and isinstance(body.exception(), ConnectionError):
                # Docker may have said why it took no more.
                await asyncio.wait({answer}, timeout=LINGER_S)
            for task in (answer, body):
                task.cancel()
            results = await asyncio.gather(answer, body, return_exceptions=True)
        finally:
            to_docker.close()
        for result in results:
            if isinstance(result, Refusal):
                raise result
        await _linger(reader, writer)
        return results[0] if isinstance(results[0], int) else 499


def _head_for_docker(request: Request, passed: Passed) -> bytes:
    target = passed.path + (f"?{urlencode(passed.query)}" if passed.query else "")
    lines = [f"{request.method} {target} HTTP/1.1", "Host: docker"]
    if passed.body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(passed.body)}"]
    elif request.length is None:
        lines += ["Content-Type: application/x-tar", "Transfer-Encoding: chunked"]
    elif request.length:
        lines += ["Content-Type: application/x-tar", f"Content-Length: {request.length}"]
    elif request.method == "POST":
        lines += ["Content-Length: 0"]
    lines += (
        ["Connection: Upgrade", "Upgrade: tcp"] if "upgrade" in request.headers else ["Connection: close"]
    )
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def _relay_body(
    request: Request, passed: Passed, reader: asyncio.StreamReader, to_docker: asyncio.StreamWriter
) -> None:
    """Send the body, then wait for the caller to go; what else it sends is dropped."""
    if passed.body is not None:
        to_docker.write(passed.body)
    elif request.length is None:
        await _relay_chunks(reader, to_docker)
    else:
        await _relay_exactly(request.length, reader, to_docker)
    await to_docker.drain()
    if piece := await reader.read(_PIECE_BYTES):
        log(f"dropped what came after {request.method} {request.rest}: {len(piece)} bytes and more")
    while piece:
        piece = await reader.read(_PIECE_BYTES)


async def _relay_exactly(length: int, reader: asyncio.StreamReader, to_docker: asyncio.StreamWriter) -> None:
    while length:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            piece = await reader.read(min(length, _PIECE_BYTES))
        if not piece:
            raise malformed("a body that ends early")
        length -= len(piece)
        to_docker.write(piece)
        await to_docker.drain()


async def _relay_chunks(reader: asyncio.StreamReader, to_docker: asyncio.StreamWriter) -> None:
    """Read chunks without extensions or trailers and write them anew."""
    total = 0
    while True:
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
        to_docker.write(b"%x\r\n" % size)
        await _relay_exactly(size, reader, to_docker)
        async with asyncio.timeout(BODY_TIMEOUT_S):
            end = await reader.read(1) + await reader.read(1)
        if end != b"\r\n":
            raise malformed("a chunk without its end")
        to_docker.write(b"\r\n")
        if size == 0:
            return


async def _relay_answer(
    from_docker: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upgraded: bool
) -> int:
    try:
        head = await from_docker.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    except (EOFError, ValueError, OSError, asyncio.LimitOverrunError) as error:
        raise _away(error) from error
    if upgraded and status != 101:
        # Docker would keep this connection open for another request, and the caller would wait for its end.
        length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
        said = await from_docker.readexactly(min(int(length[1]), LARGEST_JSON_BYTES)) if length else b"{}"
        raise Refusal(status, str(json.loads(said).get("message", "Docker gave no reason")))
    writer.write(head)
    while piece := await from_docker.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    await writer.drain()
    return status


async def _head(reader: asyncio.StreamReader) -> bytes:
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


async def _everything(reader: asyncio.StreamReader) -> bytes:
    pieces, size = [], 0
    while piece := await reader.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_ANSWER_BYTES:
            raise ValueError(f"an answer of more than {LARGEST_ANSWER_BYTES} bytes")
    return b"".join(pieces)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, said: Mapping[str, str] | bytes
) -> None:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await _linger(reader, writer)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close our side; closing both while the caller still sends would take the answer out of its hands."""
    with suppress(OSError):
        writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await reader.read(_PIECE_BYTES):
                pass


def _away(error: Exception) -> Refusal:
    return Refusal(
        502, f"gate: Docker does not answer ({type(error).__name__}: {error}); see that dockerd runs"
    )


# --- the program ----------------------------------------------------------------------------------


def policy_of(environment: Mapping[str, str]) -> Policy:
    """Return whose gate the environment says this is; the process ends when it does not say."""
    project = environment.get("MARQUEE_COMPOSE_PROJECT", "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", project):
        sys.exit(f"gate: MARQUEE_COMPOSE_PROJECT={project!r}; wanted is the name of a compose project")
    given = {
        "repository": environment.get("MARQUEE_SERVING_REPOSITORY"),
        "images": tuple(filter(None, environment.get("MARQUEE_GATE_IMAGES", "").split(","))),
    }
    return Policy(project, **{name: value for name, value in given.items() if value})  # type: ignore[arg-type]


async def run(policy: Policy, docker: str, port: int) -> None:
    """Serve until the process is ended."""
    server = await Gate(policy, docker).serve("0.0.0.0", port)
    log(f"guards {docker} for project {policy.project} on port {port}")
    async with server:
        await server.serve_forever()


def check(port: int) -> None:
    """End with an error unless Docker answers through the gate."""
    with socket.create_connection(("127.0.0.1", port), timeout=4) as connection:
        connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: gate\r\n\r\n")
        answer = connection.recv(100)
    if not answer.startswith(b"HTTP/1.1 200 "):
        sys.exit(f"gate: /_ping says {answer[:40]!r}")


if __name__ == "__main__":
    PORT = int(os.environ.get("MARQUEE_GATE_PORT", "2375"))
    if "--check" in sys.argv:
        check(PORT)
    else:
        with suppress(KeyboardInterrupt):
            asyncio.run(run(policy_of(os.environ), "/var/run/docker.sock", PORT))
