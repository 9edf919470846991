import math
import statistics
import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.model import ranking as module
from pipelines.model.ranking import Ranking, hits_of, ndcg, rank, recall, standard_error
from pipelines.model.recommender import Recommendation


class Toy:
    """A model whose lists are written down; to strangers it gives what it calls trending."""

    def __init__(self, lists, *, seen=None, popular="pqr", trending="tuv"):
        self.lists = lists
        self._seen = seen or {}
        self._general = {"popular": popular, "trending": trending}
        self.n_movies = 10
        self.asked = []

    def knows(self, users):
        return np.array([user in self.lists for user in users], dtype=np.bool_)

    def seen(self, user):
        return set(self._seen.get(user, ()))

    def recommend(self, user, k=20, watched=()):
        self.asked.append((user, tuple(watched)))
        found = watched or self.lists.get(user, self._general["trending"])
        return Recommendation([*found][:k], "personal")

    def popular(self, user, k=20):
        return Recommendation([*self._general["popular"]][:k], "popular")

    def trending(self, user, k=20):
        return Recommendation([*self._general["trending"]][:k], "trending")


def discount(place):
    return 1 / math.log2(place + 1)


def pairs(**new):
    """User to letters, each the id of a movie that is new to the user."""
    rows = [(user, movie) for user, movies in new.items() for movie in movies]
    return pd.DataFrame(rows, columns=["user_id", "movie_id"], dtype="str")


def one(measure, movie_ids, relevant):
    return float(measure(hits_of([movie_ids], [relevant]), np.array([len(relevant)]))[0])


@pytest.mark.parametrize(
    ("movie_ids", "relevant", "expected"),
    [
        (["a", "b"], {"a"}, 1.0),
        (["b", "a"], {"a"}, discount(2) / discount(1)),
        (["x", "a", "b"], {"a", "b"}, (discount(2) + discount(3)) / (discount(1) + discount(2))),
        (["x"], {"a"}, 0.0),
        ([], {"a"}, 0.0),
        (["a"], set("abcdefghijklmnop"), discount(1) / sum(discount(place) for place in range(1, 11))),
        ([*"0123456789", "a"], {"a"}, 0.0),
    ],
)
def test_ndcg_discounts_by_place_and_is_one_for_the_best_list(movie_ids, relevant, expected):
    assert one(ndcg, movie_ids, relevant) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("movie_ids", "relevant", "expected"),
    [
        (["a", "x", "b"], {"a", "b"}, 2 / 2),
        (["a", "x"], {"a", "b", "c"}, 1 / 3),
        ([*string.ascii_lowercase[:19], "z"], {"z"}, 1 / 1),
        ([], {"a"}, 0 / 1),
        ([*string.ascii_lowercase[:20]], set(string.ascii_letters), 20 / 52),
    ],
)
def test_recall_is_the_share_of_what_was_new_wherever_it_stands_in_the_list(movie_ids, relevant, expected):
    assert one(recall, movie_ids, relevant) == pytest.approx(expected)


@given(st.permutations([*"abcdefghijkl"]), st.sets(st.sampled_from("abcdefghijklxyz"), min_size=1))
def test_measures_lie_between_zero_and_one(movie_ids, relevant):
    assert 0 <= one(ndcg, movie_ids, relevant) <= 1 + 1e-12
    assert one(recall, movie_ids, relevant) == len(relevant & set(movie_ids)) / len(relevant)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_standard_error_is_that_of_the_paired_differences(both):
    ours, theirs = np.array(both).T
    expected = statistics.stdev(ours - theirs) / math.sqrt(len(both))
    assert standard_error(ours, theirs) == pytest.approx(expected, abs=1e-12)


def test_one_user_alone_has_no_standard_error():
    assert math.isnan(standard_error(np.array([0.5]), np.array([0.25])))


def test_lists_are_scored_beside_the_popular_ones():
    model = Toy({"u": "ab", "v": "xc"})
    found = rank(model, pairs(u="ab", v="cp"), seed=0)
    ours = [1.0, discount(2) / (discount(1) + discount(2))]
    popular = [0.0, discount(1) / (discount(1) + discount(2))]
    assert found.n_ranked_users == 2
    assert found.ndcg_at_10 == pytest.approx(statistics.mean(ours))
    assert found.popularity_ndcg_at_10 == pytest.approx(statistics.mean(popular))
    assert found.popularity_ndcg_se == pytest.approx(
        statistics.stdev([ours[0] - popular[0], ours[1] - popular[1]]) / math.sqrt(2)
    )
    assert (found.recall_at_20, found.popularity_recall_at_20) == ((2 / 2 + 1 / 2) / 2, (0 / 2 + 1 / 2) / 2)
    assert found.popularity_recall_se == pytest.approx(statistics.stdev([1.0, 0.0]) / math.sqrt(2))


def test_without_a_serving_model_there_are_no_figures_of_one():
    found = rank(Toy({"u": "a"}), pairs(u="a"), seed=0)
    assert found.serving_ndcg_at_10 is found.serving_recall_at_20 is None
    assert found.serving_ndcg_se is found.serving_recall_se is None


def test_the_serving_model_answers_the_same_users():
    serving = Toy({"u": "xa", "v": "b"})
    found = rank(Toy({"u": "a", "v": "b"}), pairs(u="a", v="b"), seed=0, serving=serving)
    assert serving.asked == [("u", ()), ("v", ())]
    assert found.serving_ndcg_at_10 == pytest.approx((discount(2) + 1) / 2)
    assert found.serving_ndcg_se == pytest.approx(
        statistics.stdev([1 - discount(2), 0.0]) / math.sqrt(2), abs=1e-12
    )
    assert (found.serving_recall_at_20, found.serving_recall_se) == (1.0, 0.0)


def test_a_user_the_serving_model_does_not_know_gets_from_it_what_a_stranger_gets():
    model, serving = Toy({"u": "a", "v": "b"}), Toy({"u": "a"}, trending="xb")
    found = rank(model, pairs(u="a", v="b"), seed=0, serving=serving)
    assert found.serving_ndcg_at_10 == pytest.approx((1 + discount(2)) / 2)


def test_the_serving_model_folds_in_what_was_watched_since_its_training():
    model, serving = Toy({"u": "a", "v": "b"}), Toy({"u": "a", "v": "b"})
    rank(model, pairs(u="a", v="b"), seed=0, serving=serving, recent=pairs(v="dc", w="e"))
    assert serving.asked == [("u", ()), ("v", ("c", "d"))]


def test_strangers_are_counted_and_have_figures_of_their_own():
    model = Toy({"u": "a"}, popular="pq", trending="xs")
    found = rank(model, pairs(u="a", s="s", t="p"), seed=0)
    assert (found.n_ranked_users, found.n_strangers, found.share_scored) == (1, 2, 1 / 3)
    assert found.stranger_trending_ndcg_at_10 == pytest.approx((discount(2) + 0) / 2)
    assert found.stranger_popularity_ndcg_at_10 == pytest.approx((0 + discount(1)) / 2)
    assert found.ndcg_at_10 == 1.0


def test_only_strangers_leave_the_lists_unscored():
    found = rank(Toy({}), pairs(s="s"), seed=0)
    assert (found.n_ranked_users, found.n_strangers, found.share_scored) == (0, 1, 0.0)
    assert math.isnan(found.ndcg_at_10)


def test_what_either_model_knows_as_seen_is_not_new():
    model, serving = Toy({"u": "ab", "v": "b"}, seen={"u": "a"}), Toy({}, seen={"v": "b"})
    assert rank(model, pairs(u="a", v="b"), seed=0).n_ranked_users == 1
    assert rank(model, pairs(u="a", v="b"), seed=0, serving=serving).n_ranked_users == 0
    assert rank(model, pairs(u="ab", v="b"), seed=0, serving=serving).ndcg_at_10 == discount(2)


def test_coverage_counts_each_movie_of_the_lists_once():
    found = rank(Toy({"u": "abc", "v": "bcd"}), pairs(u="a", v="b"), seed=0)
    assert found.coverage_at_20 == len("abcd") / 10


def test_nothing_asked_is_nothing_scored():
    assert repr(rank(Toy({"u": "a"}), pairs(), seed=0)) == repr(Ranking())


def test_no_more_users_and_strangers_are_ranked_than_allowed(monkeypatch):
    monkeypatch.setattr(module, "MAX_RANKED_USERS", 2)
    model = Toy(dict.fromkeys("uvwxy", "a"))
    asked = pairs(**dict.fromkeys("rstuvwxy", "a"))
    found = rank(model, asked, seed=0)
    assert (found.n_ranked_users, found.n_strangers, found.share_scored) == (2, 2, 5 / 8)
    assert found == rank(model, asked, seed=0)
    assert len({user for user, _ in model.asked}) == 2


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("uvwxyz"), st.text("abcdefg", min_size=1), min_size=1))
def test_a_model_beside_itself_differs_in_nothing(new):
    model = Toy(dict.fromkeys("uvwx", "abcd"), popular="abcd", trending="ab")
    found = rank(model, pairs(**new), seed=0, serving=model)
    if found.n_ranked_users:
        assert found.serving_ndcg_at_10 == found.ndcg_at_10 == found.popularity_ndcg_at_10
        assert found.serving_recall_at_20 == found.recall_at_20 == found.popularity_recall_at_20
        assert found.n_ranked_users == 1 or found.serving_ndcg_se == found.popularity_recall_se == 0


def test_ranker_beats_popularity_where_taste_decides(two_camps, make_ratings, make_model):
    later = make_ratings([("u0", "m0", 5), ("u1", "m1", 2)])[["user_id", "movie_id"]]
    found = rank(make_model(two_camps), later, seed=0)
    # Popular for both: the movies of the other camp that all three like come first.
    assert (found.ndcg_at_10, found.n_ranked_users) == (1.0, 2)
    assert found.popularity_ndcg_at_10 < 1.0


def test_a_movie_the_model_does_not_know_counts_as_missed(two_camps, make_ratings, make_model):
    later = make_ratings([("u0", "m0", 5), ("u0", "new", 5)])[["user_id", "movie_id"]]
    found = rank(make_model(two_camps), later, seed=0)
    assert found.ndcg_at_10 == pytest.approx(discount(1) / (discount(1) + discount(2)))
    assert found.recall_at_20 == 1 / 2
