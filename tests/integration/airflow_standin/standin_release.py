"""Stands in for ``pipelines.release.steps`` and ``pipelines.release.world``."""

from types import SimpleNamespace

from script import play

from pipelines.alerts import Alert


def world(config):
    release = SimpleNamespace(version=7, reason="no request came")
    return SimpleNamespace(ledger=SimpleNamespace(get=lambda release_id: release))


def open_release(world, *, version, plan, requested_by):
    play("open_release", version=version, requested_by=requested_by, window_s=plan.window_s)
    return SimpleNamespace(release_id=1)


def preflight(world, release_id):
    return play("preflight", release_id=release_id)


def start_canary(world, release_id):
    play("start_canary", release_id=release_id)


def look(world, release_id):
    return SimpleNamespace(**play("look", release_id=release_id))


def outcome(world, release_id):
    return play("outcome", release_id=release_id)


def ask(world, release_id, *, announce):
    play("ask", release_id=release_id)


def promote(world, release_id, *, announce, decided_by=""):
    play("promote", release_id=release_id, decided_by=decided_by)
    announce(Alert("Marquee: promoted", f"500 ms < 600 ms & decided by {decided_by!r}"))


def abort(world, release_id, *, announce, decided_by=""):
    play("abort", release_id=release_id, decided_by=decided_by)
    announce(Alert("Marquee: taken away", "{{ this is no template }}"))


def rollback(world, version, *, plan, why, requested_by, announce):
    play("rollback", version=version, why=why, requested_by=requested_by)
