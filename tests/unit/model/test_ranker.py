import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from pipelines.errors import ModelError
from pipelines.model import ranker
from pipelines.model.arrays import MAX_MOVIES, NEIGHBOUR_GRID
from pipelines.model.evidence import Evidence
from pipelines.model.lists import lay_out

DAY_S = 86_400


def evidence_of(seen, times=None):
    matrix = csr_matrix(np.array(seen, dtype=np.float32))
    return Evidence(matrix, np.arange(matrix.nnz) if times is None else np.array(times))


def drawn(n_users=200, n_movies=12, seed=1):
    """Users of two camps; nobody leaves his own."""
    rng = np.random.default_rng(seed)
    seen = rng.random((n_users, n_movies)) < 0.5
    seen &= (np.arange(n_users)[:, np.newaxis] + np.arange(n_movies)) % 2 == 0
    return evidence_of(seen)


def chances_for_everybody(before):
    """Movies say next to nothing, everybody says what is popular."""
    said = np.zeros((before.shape[1] + 1, before.shape[1]))
    said[-1] = before.sum(axis=0)
    said[:-1] = 2.0**-30
    return csr_matrix(said)


def test_neighbours_are_those_of_ease():
    seen = drawn().matrix
    activity = np.asarray(seen.sum(axis=1)).ravel()
    counted = seen.toarray() * np.maximum(activity, 1e-9)[:, np.newaxis] ** -0.25
    inverse = np.linalg.inv(counted.T @ counted + 10 * np.eye(12))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    said = ranker._Gram(seen).neighbours(10).toarray()
    assert said == pytest.approx(wanted, abs=NEIGHBOUR_GRID / 2)


def test_movies_speak_for_their_own_camp():
    said = ranker.fit(drawn(), half_life_days=2, seed=1).neighbours[:-1].toarray()
    own = np.add.outer(np.arange(12), np.arange(12)) % 2 == 0
    assert said[own & ~np.eye(12, dtype=bool)].min() > 0
    assert np.abs(said[~own]).max() == 0


def test_a_rarer_movie_speaks_by_the_first_term_of_the_same_inverse(monkeypatch):
    monkeypatch.setattr(ranker, "_INVERTED", 2)
    monkeypatch.setattr(ranker, "_INVERTED_ANYWAY", 2)
    seen = csr_matrix(np.array([[1, 0, 1], [1, 1, 0], [1, 1, 1.0]]))
    said = ranker._Gram(seen).neighbours(1.0).toarray()
    # Users count 1 / sqrt(2), 1 / sqrt(2) and 1 / sqrt(3); the third movie was seen by the first and last.
    both, size = 1 / np.sqrt(2) + 1 / np.sqrt(3), 1 / np.sqrt(2) + 1 / np.sqrt(3)
    assert said[2] == pytest.approx([both / (size + 1), 1 / np.sqrt(3) / (size + 1), 0], abs=NEIGHBOUR_GRID)
    assert said[:2, 2].tolist() == [0, 0]


def test_who_has_seen_too_much_counts_nothing(monkeypatch):
    seen = drawn().matrix
    without = ranker._Gram(seen).neighbours(10).toarray()
    monkeypatch.setattr(ranker, "_SEEN_TOO_MUCH", 12)
    with_a_machine = vstack([seen, np.ones((1, 12), np.float32)], format="csr")
    assert ranker._Gram(with_a_machine).neighbours(10).toarray().tolist() == without.tolist()


def test_only_the_strongest_neighbours_are_kept(monkeypatch):
    seen = drawn().matrix
    whole = np.abs(ranker._Gram(seen).neighbours(10).toarray())
    monkeypatch.setattr(ranker, "_MOST_NEIGHBOURS", 3 * 12)
    kept = ranker._Gram(seen).neighbours(10)
    assert np.diff(kept.indptr).tolist() == [3] * 12
    assert np.abs(kept.toarray()).sum(axis=1) == pytest.approx(np.sort(whole, axis=1)[:, -3:].sum(axis=1))


def test_a_view_fades_by_half_in_each_half_life():
    # Two movies: the first seen twice, four days ago, the second once now.
    evidence = evidence_of([[1, 0], [1, 0], [0, 1]], [0, 0, 4 * DAY_S])
    prior = ranker._TRENDING_PRIOR
    lately = ranker._lately(evidence, half_life_days=2)
    first, second = 2 * 0.25 + prior * 2 / 3, 1 + prior * 1 / 3
    assert lately == pytest.approx(np.array([first, second]) / max(first, second))


def test_many_new_views_beat_more_old_ones():
    old, new = 100, 60
    evidence = evidence_of([[1, 0]] * old + [[0, 1]] * new, [0] * old + [30 * DAY_S] * new)
    assert ranker.fit(evidence, half_life_days=2, seed=1).trending.tolist() == [1, 0]


def test_tuning_holds_out_the_newest_views_of_who_has_two():
    evidence = evidence_of([[1, 1, 1], [0, 1, 0], [1, 0, 1]], [30, 10, 20, 5, 1, 2])
    known, held = ranker._hold_out(evidence, np.random.default_rng(0))
    assert known.matrix.toarray().tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    assert known.times.tolist() == [10, 20, 5, 1]
    assert held.before.toarray().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert held.after.toarray().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_ndcg_of_the_slice_is_one_when_what_came_leads_the_list():
    after = csr_matrix(np.array([[0, 1.0, 0], [0, 1.0, 1.0]]))
    gains = 1 / np.log2([2, 3])
    wanted = (1 + gains[1] / gains.sum()) / 2
    assert ranker._ndcg(np.array([[1, 0], [0, 2]], np.int32), after) == pytest.approx(wanted)


def test_where_there_is_no_taste_lists_are_as_good_as_the_popular_one():
    """Nothing can beat popularity there; a ranker that listens to chance does worse."""
    rng = np.random.default_rng(5)
    chances = 1 / np.arange(1, 61)
    drawn = [rng.choice(60, size=5, replace=False, p=chances / chances.sum()) for _ in range(3_000)]
    before, after = np.zeros((3_000, 60)), np.zeros((3_000, 60))
    for user, movies in enumerate(map(rng.permutation, drawn)):
        before[user, movies[:4]] = after[user, movies[4:]] = 1.0
    evidence = evidence_of(before, rng.permutation(4 * 3_000))
    fitted = ranker.fit(evidence, half_life_days=2, seed=1)
    lists = lay_out(evidence.matrix, fitted.neighbours, fitted.trending, 10)
    popular = lay_out(evidence.matrix, chances_for_everybody(before), fitted.trending, 10)
    assert ranker._ndcg(lists, csr_matrix(after)) > 0.98 * ranker._ndcg(popular, csr_matrix(after))


def test_where_nobody_saw_two_movies_only_popularity_is_left():
    fitted = ranker.fit(evidence_of(np.eye(3)), half_life_days=2, seed=1)
    assert fitted.neighbours[:-1].nnz == 0
    assert fitted.chosen["validation_ndcg_at_10"] is None


def test_more_movies_than_can_be_sorted_are_refused():
    with pytest.raises(ModelError, match="movies are too many"):
        ranker.fit(Evidence(csr_matrix((1, MAX_MOVIES)), np.empty(0)), half_life_days=2, seed=1)
