"""Stands in for ``pipelines.audit.upkeep``; its calls are not noted, for its DAG runs by itself."""

import json

from script import STAGE

from pipelines.alerts import Alert


def watch_receipts(config, *, announce):
    line = json.loads((STAGE / "script.json").read_text()).get("watch_receipts", {"answers": True})
    if "alert" in line:
        announce(Alert(line["alert"], "a test"))
    return line["answers"]


def archive_receipts(config):
    return []


def thin_looks(config):
    return 0
