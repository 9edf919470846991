from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.model.rows import number

PAIRS = st.lists(st.tuples(st.sampled_from("uvwxyzé😀"), st.sampled_from("abcdeßz𝔪")), max_size=25)


def texts(numbered, pairs):
    users, movies = numbered.user_ids[pairs.users], numbered.movie_ids[pairs.movies]
    return list(zip(users, movies, strict=True))


@settings(max_examples=40, deadline=None)
@given(rated=PAIRS, watched=PAIRS)
def test_rows_lead_back_to_the_ids(rated, watched, make_ratings, make_viewings):
    numbered = number(make_ratings([(*pair, 3) for pair in rated]), make_viewings(watched))
    kept = texts(numbered, numbered.rated)
    assert texts(numbered, numbered.watched) == watched
    assert kept == [rated[place] for place in numbered.last]
    assert sorted(kept) == sorted(set(rated))
    assert numbered.rated.users.tolist() == sorted(numbered.rated.users)


@settings(max_examples=40, deadline=None)
@given(rated=PAIRS, watched=PAIRS)
def test_users_are_sorted_raters_first_and_movies_by_popularity(rated, watched, make_ratings, make_viewings):
    numbered = number(make_ratings([(*pair, 3) for pair in rated]), make_viewings(watched))
    raters, watchers = {user for user, _ in rated}, {user for user, _ in watched}
    seen_by = Counter(movie for _, movie in {*rated, *watched})
    assert numbered.user_ids.tolist() == sorted(raters) + sorted(watchers - raters)
    assert numbered.movie_ids.tolist() == sorted(seen_by, key=lambda movie: (-seen_by[movie], movie))


def test_the_last_of_several_ratings_is_kept(make_ratings):
    ratings = make_ratings([("u", "a", 1), ("u", "b", 2), ("t", "a", 3), ("u", "a", 4), ("t", "a", 5)])
    numbered = number(ratings, None)
    assert ratings["rating"].to_numpy()[numbered.last].tolist() == [5, 4, 2]
    assert len(numbered.watched.users) == 0
