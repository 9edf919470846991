import json

import pytest

from pipelines.errors import SettingsError
from pipelines.release.plan import Plan
from pipelines.settings import Settings, read


def test_plan_is_frozen_in_its_ledger_row():
    plan = Plan.of(read(max_mean_ms=300, canary_percent=10))
    assert Plan.from_row(json.loads(json.dumps(plan.as_row()))) == plan
    assert (plan.max_mean_ms, plan.canary_percent) == (300, 10)


def test_default_window_is_twelve_hours_under_half_a_second_for_a_fifth():
    plan = Plan.of(read())
    assert (plan.window_s, plan.max_mean_ms, plan.canary_percent) == (12 * 3_600, 500, 20)


def test_every_limit_of_a_plan_is_a_setting_of_its_own():
    plan = Plan.of(read(_env_file=None, max_p99_ratio=3.0, canary_window_s=60.0, on_deadline="abort"))
    assert (plan.max_p99_ratio, plan.window_s, plan.on_deadline) == (3.0, 60.0, "abort")


def test_a_row_of_an_older_ledger_has_the_defaults_of_what_is_younger():
    plan = Plan.from_row({"canary_percent": 10, "window_s": 60.0, "min_requests": 50})
    assert (plan.canary_percent, plan.window_s) == (10, 60.0)
    assert plan.false_abort == Settings.model_fields["false_abort"].default


def test_a_guard_has_no_split_and_a_window_of_its_own():
    guard = Plan.of(read(_env_file=None, guard_s=600.0)).for_guard()
    assert (guard.canary_percent, guard.window_s, guard.extension_s) == (0, 600.0, 0.0)


@pytest.mark.parametrize("name", ["max_p95_ratio", "max_p99_ratio", "max_error_ratio", "max_short_ratio"])
def test_no_limit_demands_that_a_candidate_be_better_than_stable(name):
    with pytest.raises(SettingsError, match=f"MARQUEE_{name.upper()}=0.9"):
        read(_env_file=None, **{name: 0.9})
