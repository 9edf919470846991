"""What every fleet asks its replicas, and what it tells them to have wrong."""

import httpx

from pipelines.fault import Fault
from pipelines.release.fleet import CANARY_REPLICA, Running
from pipelines.settings import Settings

_TIMEOUT_S = 2.0


def ask(replica: str, address: str, *, at: str = "") -> Running:
    """Ask ``replica``, which viewers find at ``address``, what it is ready to answer with.

    ``at``: host:port where it is asked, when that is somewhere else.
    """
    try:
        response = httpx.get(f"http://{at or address}/readyz", timeout=_TIMEOUT_S)
        body = response.json() if response.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        body = {}
    arm = "canary" if replica == CANARY_REPLICA else "stable"
    return Running(replica, address, body.get("version"), body.get("arm", arm))


def fault_of(config: Settings, arm: str, fault: Fault) -> Fault:
    """Return what a replica of ``arm`` has wrong: the canary what the settings say, others ``fault``."""
    return config.canary_fault if arm == "canary" else fault
