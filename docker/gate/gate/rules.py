"""The table of the calls that are let through: who makes each, and what must hold."""

import re
from dataclasses import dataclass
from enum import StrEnum

from gate.refusal import Refusal, refused
from gate.wire import LARGEST_CONTEXT_BYTES, LARGEST_JSON_BYTES, Request


class Need(StrEnum):
    """What must hold before a call is passed on."""

    NOTHING = "no condition"
    LISTING = "any; the answer is narrowed to what is the project's"
    INSPECT = (
        "a container of the project; of other than replicas and trainings only state and labels are shown"
    )
    OURS = "a container of the project"
    DEPLOYED = "a replica or a training of the project"
    SAYS = "a replica, a training or NGINX of the project"
    REPLICA = "a replica of the project, and a name of its own"
    NGINX = "NGINX of the project, and signal HUP"
    CREATE = "a replica or a training that `create` has nothing against"
    BUILD = "an image of a version (tag vN), of the runtime and the model that is sent; it gets no network"
    IMAGE = "an image that containers may be made of, or any by its id"
    VERSION = "an image of a version, by name"


@dataclass(frozen=True, slots=True)
class Rule:
    """One call that is let through."""

    method: str
    path: str
    need: Need
    queries: str
    """Parameters that may be there, by name."""
    why: str

    def path_of(self, request_path: str) -> re.Match[str] | None:
        """Return what stands for the name in the path, when a path without version is of this rule."""
        pattern = re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}")
        for name, expression in _NAMES.items():
            pattern = pattern.replace(name, expression)
        return re.fullmatch(pattern, request_path)

    @property
    def has_body(self) -> bool:
        """Whether a body belongs to it; Docker once took a HostConfig with ``/start``."""
        return self.need in {Need.CREATE, Need.BUILD}


_NAMES = {
    "{container}": r"(?P<container>[A-Za-z0-9][A-Za-z0-9_.-]{0,254})",
    "{image}": r"(?P<image>[a-z0-9][a-z0-9._/:@-]{0,254})",
}

# Parameters are those that docker-py always sends, and what the callers give it.
# fmt: off
RULES = (
    Rule("GET", "/_ping", Need.NOTHING, "", "health of this gate"),
    Rule("GET", "/version", Need.NOTHING, "", "which API both sides speak"),
    Rule("GET", "/containers/json", Need.LISTING, "all limit size filters trunc_cmd", "what is deployed"),
    Rule("GET", "/events", Need.LISTING, "since until filters", "the keeper: who was killed, who stopped"),
    Rule("GET", "/containers/{container}/json", Need.INSPECT, "", "state, place and labels"),
    Rule("GET", "/containers/{container}/logs", Need.SAYS,
         "follow stdout stderr since timestamps tail", "why a replica is not ready, or NGINX refuses"),
    Rule("POST", "/containers/create", Need.CREATE, "name", "a replica of a version; a training"),
    Rule("POST", "/containers/{container}/start", Need.OURS, "", "deploy; the keeper, after a docker kill"),
    Rule("POST", "/containers/{container}/stop", Need.DEPLOYED, "", "old replicas, cancelled trainings"),
    Rule("POST", "/containers/{container}/wait", Need.DEPLOYED, "", "the end of a training"),
    Rule("POST", "/containers/{container}/rename", Need.REPLICA, "name", "start first, then stop"),
    Rule("DELETE", "/containers/{container}", Need.DEPLOYED, "v force link", "what was replaced; orphans"),
    Rule("POST", "/containers/{container}/kill", Need.NGINX, "signal", "NGINX reads its configuration again"),
    Rule("POST", "/build", Need.BUILD, "t q nocache rm forcerm pull labels", "an image of each version"),
    Rule("GET", "/images/json", Need.LISTING, "all filters only_ids", "which versions are packed"),
    Rule("GET", "/images/{image}/json", Need.IMAGE, "", "id and labels of an image"),
    Rule("DELETE", "/images/{image}", Need.VERSION, "force noprune", "versions nobody goes back to"),
)
# fmt: on


def rule_of(request: Request) -> tuple[Rule, dict[str, str]]:
    """Return the rule that a request falls under and the name in its path.

    Raises:
        Refusal: there is none, or the request carries what the rule does not name.
    """
    for rule in RULES:
        found = rule.path_of(request.path)
        if found and rule.method == request.method:
            _see_that_it_fits(request, rule)
            return rule, found.groupdict()
    calls = "those in the table of docker/gate/gate/rules.py"
    raise refused(f"{request.method} {request.path}", calls)


def _see_that_it_fits(request: Request, rule: Rule) -> None:
    strange = sorted(set(request.query) - set(rule.queries.split()))
    if strange:
        raise refused(f"{rule.method} {rule.path} with parameter {strange[0][:40]!r}", rule.queries or "none")
    if request.length != 0 and not rule.has_body:
        raise refused(f"{rule.method} {rule.path} with a body", "no body")
    most = LARGEST_CONTEXT_BYTES if rule.need is Need.BUILD else LARGEST_JSON_BYTES
    if (request.length or 0) > most:
        raise Refusal(413, f"gate: a body of {request.length} bytes; allowed: {most}")
