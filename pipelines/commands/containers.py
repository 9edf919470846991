"""The compose stack, on the shell."""

import logging
import os

from pipelines.commands.shell import Heartbeat, beating
from pipelines.settings import read


def keep(heartbeat: Heartbeat = None) -> None:
    """Start containers that were killed, and make replicas and split match the ledger, until stopped."""
    from pipelines.containers import keeper
    from pipelines.local.signals import stop_event

    keeper.run(read(), stop_event(), beating(heartbeat))
    logging.shutdown()
    # Threads that ask for gauges may be waiting for a broker or a database that is away; they hold nothing.
    os._exit(0)
