"""Whose containers and images a call is about, and what is shown of them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gate.policy import NGINX, PROJECT, REPLICAS, SERVICE, TASK, Policy
from gate.refusal import malformed, refused
from gate.rules import Need, Rule
from gate.values import are_texts, is_no, read_json

_ID = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Container:
    """A container as Docker describes it."""

    id: str
    name: str
    labels: Mapping[str, str]
    described: dict[str, Any] = field(repr=False)

    @property
    def is_replica(self) -> bool:
        """Whether it answers viewers, or keeps the place of one that does."""
        return self.labels.get(SERVICE) in REPLICAS

    @property
    def is_deployed(self) -> bool:
        """Whether it may be made through this gate: a replica, or a training, which has no service."""
        return self.is_replica or (TASK in self.labels and not self.labels.get(SERVICE))

    @property
    def is_nginx(self) -> bool:
        """Whether it is an NGINX."""
        return self.labels.get(SERVICE) in NGINX


def container_of(described: dict[str, Any]) -> Container:
    """Return what Docker's description of a container says."""
    labels = described["Config"]["Labels"] or {}
    return Container(described["Id"], described["Name"].removeprefix("/"), labels, described)


def see_container(rule: Rule, container: Container, query: Mapping[str, str], policy: Policy) -> None:
    """Refuse a call that ``rule`` does not allow for this container."""
    service = container.labels.get(SERVICE)
    if container.labels.get(PROJECT) != policy.project:
        # Its name is nobody's business: the caller may have tried the first letters of an id.
        raise refused(f"{rule.method} {rule.path} of another project's", f"project {policy.project}")
    is_meant = {
        Need.DEPLOYED: container.is_deployed,
        Need.SAYS: container.is_deployed or container.is_nginx,
        Need.REPLICA: container.is_replica,
        Need.NGINX: container.is_nginx,
    }
    if not is_meant.get(rule.need, True):
        raise refused(f"{rule.method} {rule.path} of {container.name} (service {service})", rule.need)
    if rule.need is Need.NGINX and query.get("signal") not in {"HUP", "SIGHUP"}:
        raise refused(f"kill of {container.name} with signal {query.get('signal', 'KILL')[:20]!r}", rule.need)
    own = f"{policy.project}-{service}-1"
    if rule.need is Need.REPLICA and query.get("name") not in {own, f"{own}-next"}:
        raise refused(f"rename of {container.name} to {query.get('name', '')[:60]!r}", f"{own}, {own}-next")
    if not is_no(query.get("link", "")):
        raise refused("removal of a link", "removal of a container")


def shown(container: Container) -> bytes | None:
    """Return all that is shown of a container that is not deployed by us; None: everything.

    Environment, command and what health checks say may hold secrets of others.
    """
    if container.is_deployed:
        return None
    told = container.described
    state, host = told.get("State", {}), told.get("HostConfig", {})
    health = {"Health": {"Status": state["Health"].get("Status")}} if state.get("Health") else {}
    return json.dumps(
        {
            "Id": container.id,
            "Name": told["Name"],
            "State": {**state, **health},
            "RestartCount": told.get("RestartCount", 0),
            # docker-py asks for `Tty` before it reads a log.
            "Config": {"Labels": dict(container.labels), "Tty": told["Config"].get("Tty", False), "Env": []},
            "HostConfig": {key: host[key] for key in ("NetworkMode", "RestartPolicy") if key in host},
        }
    ).encode()


def narrowed(path: str, query: Mapping[str, str], policy: Policy) -> dict[str, str]:
    """Return the parameters of a list that shows what is the project's only."""
    filters = read_json(query.get("filters", "") or "{}")
    labels = filters.get("label") or []
    if isinstance(labels, dict):  # an older form: {"label": {"a=b": true}}
        labels = [label for label, is_wanted in labels.items() if is_wanted]
    if not are_texts(labels):
        raise malformed("a filter by labels that are none")
    ours = {"label": [f"{PROJECT}={policy.project}", *labels]}
    if path == "/events":
        # Others tell the commands of health checks.
        ours |= {"type": ["container"], "event": ["die", "stop"]}
    if path == "/images/json":
        # Images of versions have no label of a project.
        ours = {"label": labels, "reference": [policy.repository]}
    return {**query, "filters": json.dumps({**filters, **ours})}


def see_image(rule: Rule, image: str, policy: Policy) -> None:
    """Refuse a call that ``rule`` does not allow for the image of this name or id."""
    is_version = policy.version_image.fullmatch(image) is not None
    # An id is told of containers of the project only: also of one whose image has lost its name since.
    if is_version or (rule.need is Need.IMAGE and (policy.knows(image) or _ID.fullmatch(image))):
        return
    raise refused(f"{rule.method} of image {image[:80]!r}", rule.need)
