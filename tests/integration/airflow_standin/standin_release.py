"""Stands in for ``by_hand``, ``steps``, ``watch`` and ``world`` of ``pipelines.release``.

The state of the one release is kept in a file, as the real one is in the ledger; what looks see is scripted.
"""

import os
import time
from types import SimpleNamespace

from script import STAGE, line, note, noted, play

from pipelines.alerts import Alert
from pipelines.errors import NothingNew, ReleaseError

_STATE = STAGE / "state"
_AFTER_LOOK = {"pass": "promoting", "fail": "aborting"}
_AFTER_PERSON = {
    ("watching", "approve"): "promoting",
    ("watching", "extend"): "watching",
    ("watching", "abort"): "aborting",
    ("asking", "approve"): "promoting",
    ("asking", "abort"): "aborting",
    ("guarding", "approve"): "promoted",
    ("guarding", "extend"): "guarding",
    ("guarding", "abort"): "reverting",
}


def world(config):
    return SimpleNamespace(ledger=SimpleNamespace(get=_release))


def open_release(world, *, version, plan, requested_by, run_url, automatic):
    newest = line("version")
    if automatic and {"version": newest} in noted("opened"):
        raise NothingNew(f"version {newest}, the newest, had its release already")
    play(
        "open_release",
        version=version,
        requested_by=requested_by,
        window_s=plan.window_s,
        run_url=run_url,
        automatic=automatic,
    )
    note("opened", version=newest if automatic else version)
    _move("open")
    return _release(1)


def preflight(world, release_id):
    return play("preflight", release_id=release_id)


def start_canary(world, release_id):
    play("start_canary", release_id=release_id)
    _move("watching")


def look(world, release_id, *, announce):
    """See what the script says of the n-th look; it costs ``look_takes_s`` and may be killed in between."""
    state = _state()
    if state not in ("watching", "guarding"):
        return SimpleNamespace(verdict="fail", reason=f"the release is {state} already", final=True)
    call = "look" if state == "watching" else "guard"
    note(f"{call} begins", release_id=release_id)
    time.sleep(line("look_takes_s") or 0)
    script = line(call)
    seen = script[min(len(noted(call)), len(script) - 1)] if isinstance(script, list) else script
    note(call, release_id=release_id)
    if "alert" in seen:
        announce(Alert(seen["alert"], "a test"))
    if seen["final"] and state == "watching":
        _move(_AFTER_LOOK.get(seen["verdict"], "asking"), unless_left="watching")
    elif seen["verdict"] == "fail":
        _move("reverting", unless_left="guarding")
    return SimpleNamespace(**seen)


def outcome(world, release_id):
    play("outcome", release_id=release_id)
    return {"promoting": "promote", "asking": "ask"}.get(_state(), "abort")


def ask(world, release_id, *, announce):
    play("ask", release_id=release_id)


def promote(world, release_id, *, announce):
    play("promote", release_id=release_id)
    announce(Alert("Marquee: promoted", "500 ms < 600 ms & all is well"))
    _move("guarding")


def settle(world, release_id, *, announce):
    play("settle", release_id=release_id)
    _move("reverted" if _state() == "reverting" else "promoted")
    return _state()


def abort(world, release_id, *, announce):
    play("abort", release_id=release_id)
    announce(Alert("Marquee: taken away", "{{ this is no template }}"))
    _move("aborted")


def intervene(world, release_id, what, *, who, why, seconds, request):
    note("intervene", release_id=release_id, what=what, who=who, why=why, seconds=seconds)
    if (_state(), what) not in _AFTER_PERSON:
        raise ReleaseError(f"release 1 is {_state()}: too late to {what}")
    _move(_AFTER_PERSON[_state(), what])
    return _release(1)


def rollback(world, version, *, plan, why, requested_by, announce, run_url):
    play("rollback", version=version, why=why, requested_by=requested_by, run_url=run_url)


def _release(release_id):
    return SimpleNamespace(release_id=1, version=7, reason="no request came", state=_state())


def _state():
    return _STATE.read_text()


def _move(state, *, unless_left=None):
    if unless_left and _state() != unless_left:
        return
    written = STAGE / f".state-{os.getpid()}"
    written.write_text(state)
    written.replace(_STATE)
