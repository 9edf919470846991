"""The simulation behind `make verdicts`, with few watches: sound candidates pass, each fault is seen."""

import numpy as np
import pytest

from pipelines.release.judge import Verdict
from tests.benchmarks import watches
from tests.benchmarks.verdicts import ALIKE, FAULTS, SOUND, Case, Job, play
from tests.benchmarks.watches import Traffic


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.world.name for case in cases]


@pytest.mark.parametrize("case", ALIKE, ids=names(ALIKE))
def test_no_sound_candidate_is_taken_away_but_peeking_would(case):
    outcome = play(Job(case, seed=1, runs=6))
    assert Verdict.FAIL not in outcome.verdict
    assert sum((outcome.peeked["errors"] > 0) | (outcome.peeked["mean"] > 0)) >= 3


@pytest.mark.parametrize("case", FAULTS, ids=names(FAULTS))
def test_each_trouble_is_told_by_its_name(case):
    outcome = play(Job(case, seed=1, runs=2))
    assert (outcome.minute > 0).all()
    assert set(outcome.verdict.tolist()) <= {case.wanted, Verdict.UNDECIDED}


def test_simulated_figures_are_those_of_the_world():
    rng = np.random.default_rng(1)
    look = watches.measure(SOUND.world, Traffic.draw(rng), rng)
    total = look.canary.answers[-1] + look.stable.answers[-1]
    assert total == pytest.approx(12 * 3_600 * watches.REQUESTS_PER_S, rel=0.01)
    assert look.users.canary[-1] / look.users.total[-1] == pytest.approx(0.2, abs=0.01)
    assert look.stable.failed.share[-1] == pytest.approx(0.01, abs=0.004)
    assert look.stable.below.share[-1] == pytest.approx(watches.STRANGERS, abs=0.02)
    assert look.stable.time.mean[-1] == pytest.approx(watches.MEAN_MS, rel=0.1)
    assert look.stable.quantiles.at(0.99, "upper")[-1] == pytest.approx(watches.P99_MS, rel=0.3)


def test_clusters_of_the_simulation_are_those_of_its_requests():
    # A traffic of three requests: user 0 twice, user 1 once; both of user 0's fail.
    asked = watches.Asked.by(np.array([0, 1, 0]))
    assert asked.rank.tolist() == [0, 0, 1]
    again, later = watches.failed_again(asked, np.array([0, 2]))
    assert again.tolist() == [0, 1]
    assert later.tolist() == [2]
