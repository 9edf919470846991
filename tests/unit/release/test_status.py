import io
import json

from rich.console import Console

from pipelines.release import steps
from pipelines.release.plan import Plan
from pipelines.release.status import as_tables, snapshot
from pipelines.settings import read


def shown(state) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*as_tables(state), sep="\n")
    return console.export_text()


def test_empty_world_has_a_status(world):
    state = snapshot(world)
    assert (state.stable, state.replicas, state.releases) == (None, (), ())
    assert "Serving: nothing yet" in shown(state)


def test_status_shows_who_serves_the_split_and_the_looks(world, monkeypatch):
    monkeypatch.setattr(steps, "check", lambda model_dir, version: "")
    plan = Plan.of(read())
    for version in (1, 2):
        release_id = steps.open_release(world, version=version, plan=plan, requested_by="test").release_id
        steps.start_canary(world, release_id)
        if version == 1:
            steps.promote(world, release_id, announce=lambda alert: None)
    steps.look(world, release_id)
    text = shown(snapshot(world))
    assert "Serving: version 1" in text
    assert "percent=20" in text
    assert "watching" in text
    assert "20.0 ms over 1000 good answers" in text


def test_status_is_json_for_programs(world):
    assert json.loads(json.dumps(snapshot(world).as_json(), default=str))["stable"] is None
