import io

from rich.console import Console

from pipelines.local.show import Show, View, as_table
from pipelines.release.figures import ArmFigures
from pipelines.release.measure import answers_of, figures_of
from tests.receipts import row


def figures(good: int, failed: int, mean_ms: float) -> ArmFigures:
    statuses = [200] * good + [503] * failed
    answers = answers_of([row(status=status, latency_ms=mean_ms) for status in statuses])
    return figures_of(answers, version=3)


CANARY = figures(120, 0, 12.5)
STABLE = figures(456, 24, 10.0)
VIEW = View(
    tasks={"retrain": {"collect": "success", "train": "running", "gate": "none"}},
    split="canary=127.0.0.1:8093 percent=20",
    canary=CANARY,
    stable=STABLE,
    verdict="undecided: 30 s to go",
)


def in_a_log(*views: View) -> list[str]:
    file = io.StringIO()
    with Show(Console(file=file, force_terminal=False, width=200)) as show:
        for view in views:
            show.update(view)
    return file.getvalue().splitlines()


def test_log_gets_a_line_for_everything_that_happened():
    lines = "\n".join(in_a_log(VIEW))
    assert "retrain collect: success" in lines
    assert "retrain train: running" in lines
    assert "retrain gate" not in lines
    assert "120 requests, mean 12.5 ms, 0.0% failed" in lines
    assert "480 requests, mean 10.0 ms, 5.0% failed" in lines


def test_log_says_nothing_twice():
    assert len(in_a_log(VIEW, VIEW)) == len(in_a_log(VIEW))


def test_figures_that_move_are_said_with_the_next_verdict_only():
    moved = View(VIEW.tasks, VIEW.split, figures(130, 0, 1.0), STABLE, VIEW.verdict)
    assert len(in_a_log(VIEW, moved)) == len(in_a_log(VIEW))


def test_arm_without_answers_has_no_mean():
    nothing = View(canary=figures(0, 0, 0.0), stable=STABLE, verdict="no traffic")
    assert "0 requests, no mean yet" in "\n".join(in_a_log(nothing))


def test_terminal_gets_one_table():
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(as_table(VIEW))
    text = console.export_text()
    shown = ("retrain", "✓ collect", "▶ train", "· gate", "canary", "stable", "verdict", "30 s to go")
    for words in shown:
        assert words in text
