import json

from pipelines.release.plan import Plan
from pipelines.settings import read


def test_plan_is_frozen_in_its_ledger_row():
    plan = Plan.of(read(max_mean_ms=300, canary_percent=10))
    assert Plan.from_row(json.loads(json.dumps(plan.as_row()))) == plan
    assert (plan.max_mean_ms, plan.canary_percent) == (300, 10)


def test_default_window_is_twelve_hours_under_half_a_second_for_a_fifth():
    plan = Plan.of(read())
    assert (plan.window_s, plan.max_mean_ms, plan.canary_percent) == (12 * 3_600, 500, 20)
