import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.model.arrays import EVIDENCE_GRID
from pipelines.model.evidence import Part, gather, rating_weights, viewing_weights


def part(rows):
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Part(columns[0], columns[1], columns[2].astype(np.float32), columns[3])


def test_the_worst_rating_is_evidence_too():
    assert rating_weights(np.array([1.0, 3.0, 5.0]), (1, 5)) == pytest.approx(
        [0.6, 0.8, 1.0], abs=EVIDENCE_GRID / 2
    )


def test_a_scale_of_one_rating_says_the_least():
    assert rating_weights(np.array([3.0]), (3, 3)) == pytest.approx([0.6], abs=EVIDENCE_GRID / 2)


def test_who_stays_longer_has_liked_it_more():
    minutes = np.array([1, 10, 30, 90])
    assert viewing_weights(minutes) == pytest.approx(
        [1 / 11, 10 / 20, 30 / 40, 90 / 100], abs=EVIDENCE_GRID / 2
    )


@given(st.lists(st.integers(0, 2_000), min_size=1))
def test_weights_lie_on_the_grid_and_are_never_nothing(minutes):
    steps = viewing_weights(np.array(minutes)) / EVIDENCE_GRID
    assert (steps == np.rint(steps)).all()
    assert ((steps >= 1) & (steps <= 1 / EVIDENCE_GRID)).all()


def test_of_a_pair_the_stronger_evidence_and_the_newest_time_count():
    rated, watched = part([(0, 1, 0.75, 100), (2, 0, 0.5, 7)]), part([(0, 1, 0.25, 200), (0, 0, 0.5, 50)])
    evidence = gather([rated, watched], (3, 2))
    assert evidence.matrix.toarray().tolist() == [[0.5, 0.75], [0, 0], [0.5, 0]]
    assert evidence.times.tolist() == [50, 200, 7]
