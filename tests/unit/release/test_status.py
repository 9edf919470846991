import io
import json
from datetime import timedelta

from rich.console import Console

from pipelines.release import by_hand, steps, watch
from pipelines.release.plan import Plan
from pipelines.release.status import as_tables, snapshot
from pipelines.settings import read
from tests.arms import Arm, serve


def shown(state) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*as_tables(state), sep="\n")
    return console.export_text()


def test_empty_world_has_a_status(world):
    state = snapshot(world)
    assert (state.stable, state.replicas, state.releases) == (None, (), ())
    assert "Serving: nothing yet" in shown(state)


def test_status_shows_who_serves_the_split_the_looks_and_the_latest_readings(world):
    plan = Plan.of(read())
    for version in (1, 2):
        release_id = steps.open_release(world, version=version, plan=plan, requested_by="test").release_id
        steps.start_canary(world, release_id)
        if version == 1:
            steps.promote(world, release_id, announce=lambda alert: None)
    since = world.ledger.get(release_id).watch_from
    serve(world.records, since=since, seconds=60, canary=Arm(2), stable=Arm(1))
    watch.look(world, release_id, now=since + timedelta(seconds=90))
    by_hand.intervene(world, None, "extend", who="ada", why="The evening comes.", seconds=7_200)
    text = shown(snapshot(world))
    assert "Serving: version 1" in text
    assert "percent=20" in text
    assert "watching" in text
    assert f"Image of version 2: {world.fleet.pack(2)}." in text
    assert "undecided" in text
    assert "20.0 ms over 120 good answers" in text
    assert "ada: extend by 2 h. The evening comes." in text


def test_status_is_json_for_programs(world):
    assert json.loads(json.dumps(snapshot(world).as_json(), default=str))["stable"] is None
