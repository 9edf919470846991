"""What the demo shows while Airflow works: tasks, split, both arms, the latest verdict.

In a terminal it is one live table; into a file or a CI log goes a line for everything that changed.
"""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.release.figures import ArmFigures

_LOOKS = {
    "success": ("✓", "green"),
    "running": ("▶", "cyan"),
    "deferred": ("◷", "cyan"),
    "up_for_retry": ("↻", "yellow"),
    "failed": ("✗", "red"),
    "upstream_failed": ("✗", "red"),
    "skipped": ("-", "dim"),
}
"""Mark and colour of a task's state."""


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is to be seen at one moment."""

    tasks: dict[str, dict[str, str]] = field(default_factory=dict)
    """State of each task, by DAG."""
    split: str = ""
    canary: ArmFigures | None = None
    stable: ArmFigures | None = None
    verdict: str = ""
    """Latest verdict with its reason."""


class Show:
    """Shows one view after the other."""

    def __init__(self, console: Console) -> None:
        """Show on ``console``."""
        self._console = console
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Begin."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the last view stays on the screen."""
        if self._live:
            self._live.stop()

    def update(self, view: View) -> None:
        """Show ``view``."""
        if self._live:
            self._live.update(as_table(view))
        else:
            for line in self._news(view):
                self._console.print(line, highlight=False, soft_wrap=True)

    def _news(self, view: View) -> list[str]:
        """Return a line for everything that is not as it was said last."""
        now = {f"{dag} {task}": state for dag, tasks in view.tasks.items() for task, state in tasks.items()}
        now |= {"split": view.split, "verdict": view.verdict}
        if view.verdict and view.canary and view.stable:
            now["arms"] = f"canary {_figures(view.canary)}; stable {_figures(view.stable)}"
        waiting = {"none", "", "scheduled", "queued"}
        news = {
            key: value for key, value in now.items() if value not in waiting and self._said.get(key) != value
        }
        # The arms change with every request: they are said with the verdict they belong to.
        if "verdict" not in news:
            news.pop("arms", None)
        self._said |= news
        return [f"    {key}: {value}" for key, value in news.items()]


def as_table(view: View) -> Table:
    """Lay ``view`` out for a terminal."""
    table = Table.grid(padding=(0, 2))
    for dag, tasks in view.tasks.items():
        line = Text()
        for task, state in tasks.items():
            mark, style = _LOOKS.get(state, ("·", "dim"))
            line.append(f"{mark} {task}  ", style=style)
        table.add_row(Text(dag, style="bold"), line)
    if view.split:
        table.add_row("split", view.split)
    for name, arm in (("canary", view.canary), ("stable", view.stable)):
        if arm:
            table.add_row(name, _figures(arm))
    if view.verdict:
        table.add_row("verdict", view.verdict)
    return table


def _figures(arm: ArmFigures) -> str:
    mean = f"mean {arm.time.mean:.1f} ms" if arm.time.n else "no mean yet"
    return f"{arm.answers:.0f} requests, {mean}, {arm.failed.share:.1%} failed"
