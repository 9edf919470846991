"""The shell: every step of Marquee without Airflow. ``python -m pipelines --help``."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipelines import logs
from pipelines.commands import audit, containers, data, drills, machine, records, releases, training, verdicts
from pipelines.commands.shell import Exit, errors
from pipelines.errors import Locked, MarqueeError, NothingNew, Refused, SettingsError

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 3 data, model or candidate refused, "
    "4 nothing new, 5 another process holds the lock, 6 a person has to decide."
)
_COMMANDS: dict[str, list[Callable[..., Any]]] = {
    "Events, data and models": [
        training.collect,
        training.validate,
        training.train,
        training.evaluate,
        training.recommend,
        training.retrain,
        data.quarantine,
        data.blast_radius,
        data.telemetry,
    ],
    "Versions and releases": [
        releases.versions,
        releases.release,
        releases.steer,
        releases.rollback,
        releases.status,
        verdicts.rejudge,
        drills.drill,
    ],
    "What was answered": [
        audit.receipt,
        audit.served,
        audit.archive,
        records.migrate,
    ],
    "The machine": [
        machine.demo,
        machine.up,
        machine.down,
        machine.recorder,
        machine.follow,
        machine.audience,
        machine.catch,
        containers.keep,
        machine.settings,
    ],
}

app = typer.Typer(
    help="Retrain, release and account for a movie recommender.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)


@app.callback()
def configure(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False) -> None:
    """Prepare the logs."""
    logs.configure(verbose=verbose)


def main() -> None:
    """Run a command; errors meant for people are printed as such and become exit codes."""
    try:
        app()
    except MarqueeError as error:
        errors.print(f"[red]{type(error).__name__}[/red]: ", end="")
        errors.print(str(error), markup=False, highlight=False)
        sys.exit(_exit_code(error))


def _exit_code(error: MarqueeError) -> Exit:
    codes: list[tuple[type[MarqueeError], Exit]] = [
        (NothingNew, Exit.NOTHING_NEW),
        (Refused, Exit.REFUSED),
        (Locked, Exit.LOCKED),
        (SettingsError, Exit.USAGE),
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), Exit.FAILED)


if __name__ == "__main__":
    main()
