"""Logging for the shell: one line per record on standard error, so that standard output stays data."""

import logging
import sys


def configure(*, verbose: bool = False) -> None:
    """Send the logs of Marquee to standard error; ``verbose`` lowers the level to DEBUG."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger("pipelines")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
