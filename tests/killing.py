"""Every moment at which a step can die: before each thing that it does to the world, and at its very end.

A step runs with its world watched and dies at the moment of a given number. Tried with 0, 1, 2 … until it
lives through, it has died everywhere; what a step does more tomorrow is a moment by itself.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from pipelines.alerts import Alert, Announce
from pipelines.release import steps
from pipelines.release import world as parts
from pipelines.release.ledger import Ledger
from pipelines.release.world import World
from pipelines.settings import Settings

Step = Callable[..., object]
"""Called with a world, and with ``announce`` by name."""

ASKING = frozenset({"running", "address", "current", "versions", "metrics", "meta", "hashes"})
"""What only asks a part of the world; everything else that a part is told is a moment."""

_UNWATCHED = (str, Path, Engine, Ledger)
"""The ledger is watched by the statements that its database gets."""

_EFFECTS = frozenset({"os.rename", "os.remove", "subprocess.Popen", "socket.connect"})
"""What a part does on this machine, by the names of Python's audit events."""

_LOOKED_INTO = ("fleet.", "router.")
"""What does more than one thing in a call; the others have transactions."""

_ONLY_ASKS = frozenset({"-v", "-t"})
"""Options of a program that changes nothing then."""


class Moments:
    """Counts the moments of a run and calls ``die`` at the one of number ``die_at``; None: lives through.

    A call is a moment, but for those whose names begin with ``looked_into``: somebody else looks inside.
    """

    def __init__(
        self, die_at: int | None, die: Callable[[], None], *, looked_into: tuple[str, ...] = ()
    ) -> None:
        self._die_at = die_at
        self._die = die
        self._looked_into = looked_into
        self.passed: list[str] = []
        self.is_inside = False
        """Whether a call that is looked into is being carried out."""

    def come(self, what: str) -> None:
        """Note that ``what`` is next."""
        self.passed.append(what)
        if len(self.passed) - 1 == self._die_at:
            self._die()

    def run(self, step: Step, world: World, announce: Announce) -> None:
        """Run ``step`` in ``world``, whose database nobody else must use meanwhile."""
        event.listen(world.records, "before_cursor_execute", self._before_statement)
        try:
            step(self._around(world), announce=partial(self.call, "announce", announce))
            self.come("the end")
        finally:
            event.remove(world.records, "before_cursor_execute", self._before_statement)

    def call(self, name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Carry out a call to a part of the world."""
        self.is_inside = name.startswith(self._looked_into)
        if not self.is_inside:
            self.come(" ".join([name, *(str(argument) for argument in arguments[:2])]))
        try:
            return call(*arguments, **options)
        finally:
            self.is_inside = False

    def _around(self, world: World) -> World:
        all_parts = {field.name: getattr(world, field.name) for field in fields(world)}
        watched = {
            name: _Part(part, name, self)
            for name, part in all_parts.items()
            if not isinstance(part, _UNWATCHED)
        }
        return replace(world, **watched)

    def _before_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        first, *more = statement.split()
        if first in ("INSERT", "UPDATE", "DELETE"):
            self.come(" ".join([first, *more[:2]]))


class _Part:
    """A part of the world whose every call is a moment."""

    def __init__(self, part: object, name: str, moments: Moments) -> None:
        self._part, self._name, self._moments = part, name, moments

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name in ASKING or not callable(found):
            return found
        return partial(self._moments.call, f"{self._name}.{name}", found)


def start(world: World, release_id: int, *, announce: Announce) -> None:
    """Start the canary, which tells nobody, as a step like the others."""
    steps.start_canary(world, release_id)


def die_in_the_middle(config: Settings, step: Step, die_at: int | None, told: Path, place: Path) -> None:
    """Run ``step`` in the real world of ``config``, in a process of its own that dies by SIGKILL.

    Moments are also those inside of a part: before a file appears or goes, before a program starts and while
    it runs, before somebody is asked. Alerts go to the end of the file ``told``, the moments into ``place``.
    """
    moments = Moments(die_at, lambda: _die(moments, place), looked_into=_LOOKED_INTO)
    communicate = subprocess.Popen.communicate

    def inside(event_name: str, arguments: tuple[Any, ...]) -> None:
        if moments.is_inside and event_name in _EFFECTS:
            what = _effect(event_name, arguments)
            # Somebody who waits asks again and again: that is one moment.
            if what and what != (moments.passed or [""])[-1]:
                moments.come(what)

    def while_it_runs(process: subprocess.Popen[Any], *arguments: Any, **options: Any) -> Any:
        if moments.is_inside and (what := _command(process.args)):
            moments.come(f"while {what} runs")
        return communicate(process, *arguments, **options)

    world = parts.world(config)
    # Its first caller tries the folder out, with a file that comes and goes.
    tempfile.gettempdir()
    subprocess.Popen.communicate = while_it_runs  # type: ignore[method-assign]
    sys.addaudithook(inside)
    moments.run(step, world, _into(told))


def _die(moments: Moments, place: Path) -> None:
    place.write_text("\n".join(moments.passed))
    os.kill(os.getpid(), signal.SIGKILL)


def _into(told: Path) -> Announce:
    def announce(alert: Alert) -> None:
        with told.open("a") as file:
            file.write(f"{alert.key}\n")
            file.flush()
            os.fsync(file.fileno())

    return announce


def _effect(name: str, arguments: tuple[Any, ...]) -> str:
    """Name an audit event by what it is about: the new file, the file, the command, or the port."""
    if name == "subprocess.Popen":
        return _command(arguments[1])
    if name == "socket.connect":
        return f"ask {arguments[1]}"
    return f"{name} {Path(arguments[1 if name == 'os.rename' else 0]).name}"


def _command(arguments: Any) -> str:
    """Name a command; empty when it changes nothing."""
    if _ONLY_ASKS.intersection(arguments):
        return ""
    return " ".join(Path(str(argument)).name for argument in arguments)
