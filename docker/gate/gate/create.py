"""What a new container may be: a replica or a training, without a right that these do not need."""

import json
import re
from collections.abc import Mapping
from typing import Any

from gate.policy import NETWORKS, PROJECT, REPLICAS, SERVICE, TASK, VOLUMES, Policy
from gate.refusal import refused
from gate.values import (
    Sees,
    are_of,
    are_texts,
    each,
    holds,
    is_command,
    is_count,
    is_count_or_none,
    is_flag,
    is_one_of,
    is_text,
    maps,
)

CONFIG: dict[str, Sees] = {
    "User": is_text,
    "AttachStdout": is_flag,
    "AttachStderr": is_flag,
    "Env": are_texts,
    "Cmd": is_command,
    "Image": is_text,
    "Labels": maps(".+", is_text),
    "StopTimeout": is_count,
    "HostConfig": lambda value: isinstance(value, dict),
    "NetworkingConfig": holds(EndpointsConfig=maps(".+", lambda value: isinstance(value, dict | None))),
}
"""Every key of a new container that may hold something, and what.

No `Hostname`: Docker lets a container be found under it, so it is a name that could be another service's.
"""

HOST_CONFIG: dict[str, Sees] = {
    "Binds": are_texts,
    "Mounts": lambda value: isinstance(value, list),
    "NetworkMode": is_text,
    "LogConfig": holds(
        Type=is_one_of("json-file", "local"), Config=maps("max-size|max-file|compress", is_text)
    ),
    "RestartPolicy": holds(
        Name=is_one_of("no", "always", "unless-stopped", "on-failure"), MaximumRetryCount=is_count
    ),
    "CapDrop": are_texts,
    "SecurityOpt": are_of("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"),
    "ReadonlyRootfs": is_flag,
    "Tmpfs": maps(r"/[^:]*", is_text),
    "Init": is_flag,
    "IpcMode": is_one_of("private", "none"),
    "Runtime": is_one_of("runc"),
    "Isolation": is_one_of("default"),
    "ConsoleSize": is_one_of([0, 0]),
    "OomScoreAdj": lambda value: is_count(value) and value <= 1000,
    "Ulimits": each(holds(Name=is_text, Soft=is_count_or_none, Hard=is_count_or_none)),
    "ShmSize": is_count,
    "Memory": is_count,
    "MemoryReservation": is_count,
    "MemorySwap": is_count_or_none,
    "MemorySwappiness": is_count,
    "NanoCpus": is_count,
    "CpuShares": is_count,
    "CpuPeriod": is_count,
    "CpuQuota": is_count,
    "PidsLimit": is_count,
    "BlkioWeight": is_count,
}
"""The same for its place on this machine."""

DAEMON_DECIDES = ("MaskedPaths", "ReadonlyPaths", "CgroupnsMode")
"""Never passed on, so that Docker's own defaults hold: an empty list would unmask /proc."""

GATE_DECIDES = {"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"]}
"""Of every container: a file in its image that runs as root would make a user without rights root."""


def judge_create(body: Mapping[str, Any], name: str, policy: Policy) -> dict[str, Any]:
    """Return the description from which a container may be made.

    Raises:
        Refusal: it is neither a replica nor a training, or asks for more than these need.
    """
    config = _known(body, CONFIG, "")
    labels = config.get("Labels", {})
    if labels.get(PROJECT) != policy.project:
        raise refused(f"label {PROJECT}={labels.get(PROJECT)!r}", policy.project)
    service = labels.get(SERVICE, "")
    names, aliases = _own_names(service, labels, policy)
    if not re.fullmatch(names, name):
        raise refused(f"container name {name[:60]!r}", names.replace("\\", ""))
    if not re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", config.get("User", "")):
        raise refused(
            f"user {config.get('User', '')[:40]!r}", "a user and a group by number, neither of them root"
        )
    image = config.get("Image", "")
    if not policy.knows(image):
        allowed = f"{policy.repository}:v<number>, {', '.join(policy.images)}"
        raise refused(f"image {image[:80]!r}", allowed)
    host = _known(config.get("HostConfig", {}), HOST_CONFIG, "HostConfig.")
    for bind in host.get("Binds", []):
        _see_bind(bind, policy)
    for mount in host.get("Mounts", []):
        _see_mount(mount, policy)
    _see_network(host.get("NetworkMode", "default"), policy)
    return {
        **config,
        # Also where it is empty: else Docker takes the label of the image.
        "Labels": {**labels, SERVICE: service},
        "HostConfig": {**host, **GATE_DECIDES},
        "NetworkingConfig": _networking(config.get("NetworkingConfig", {}), aliases, policy),
    }


def _own_names(service: str, labels: Mapping[str, str], policy: Policy) -> tuple[str, str]:
    """Return the patterns of the names and of the network aliases that a container may have."""
    if not service and TASK in labels:
        return re.escape(f"{policy.project}-train"), "(?!)"
    if service in REPLICAS:
        own = re.escape(f"{policy.project}-{service}-1")
        return f"{own}(-next)?", f"{re.escape(service)}|{own}"
    raise refused(f"a container of service {service!r}", f"{', '.join(REPLICAS)}, or label {TASK} alone")


def _known(given: Mapping[str, Any], sees: Mapping[str, Sees], where: str) -> dict[str, Any]:
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
            told = json.dumps(value)[:80] if key != "Env" else "(hidden)"
            raise refused(f"{where}{key}={told}", "what docker/gate/gate/create.py says of it")
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
    endpoints = {}
    for network, endpoint in (given.get("EndpointsConfig") or {}).items():
        _see_network(network, policy)
        endpoints[network] = _known(endpoint or {}, {"Aliases": are_texts}, "EndpointsConfig.")
        for alias in endpoints[network].get("Aliases", []):
            # Under another's name it would be taken for the other.
            if not re.fullmatch(aliases, alias):
                raise refused(f"network alias {alias[:60]!r}", "the replica's own name")
    return {"EndpointsConfig": endpoints}
