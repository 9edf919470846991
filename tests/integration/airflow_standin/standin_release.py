"""Stands in for ``pipelines.release.steps``."""

from types import SimpleNamespace

from pipelines.alerts import Alert
from script import play


def open_release(config, *, version, requested_by):
    play("open_release", version=version, requested_by=requested_by)
    return 1


def preflight(config, release_id):
    return play("preflight", release_id=release_id)


def start_canary(config, release_id):
    play("start_canary", release_id=release_id)


def look(config, release_id):
    return SimpleNamespace(**play("look", release_id=release_id))


def outcome(config, release_id):
    return play("outcome", release_id=release_id)


def ask(config, release_id, *, announce):
    play("ask", release_id=release_id)


def promote(config, release_id, *, announce, decided_by=""):
    play("promote", release_id=release_id, decided_by=decided_by)
    announce(Alert("Marquee: promoted", f"a < b & decided by {decided_by!r}"))


def abort(config, release_id, *, announce, decided_by=""):
    play("abort", release_id=release_id, decided_by=decided_by)


def rollback(config, version, *, why, requested_by, announce):
    play("rollback", version=version, why=why, requested_by=requested_by)
