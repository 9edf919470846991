import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import StackError
from pipelines.local.audience import tastes
from pipelines.local.audience.tastes import Tastes


@pytest.mark.parametrize(
    ("title", "movie"),
    [
        ("Fight Club (1999)", "fight+club+1999"),
        ("Lord of the Rings: The Two Towers, The (2002)", "the+lord+of+the+rings+the+two+towers+2002"),
        ("Crouching Tiger, Hidden Dragon (Wo hu cang long) (2000)", "crouching+tiger_+hidden+dragon+2000"),
        ("Amelie (Fabuleux destin d'Amélie Poulain, Le) (2001)", "amelie+2001"),
        ("Mr. & Mrs. Smith (2005)", "mr.++mrs.+smith+2005"),
        ("M*A*S*H (a.k.a. MASH) (1970)", "m*a*s*h+1970"),
        ("Spider-Man (2002)", "spider-man+2002"),
        ("(500) Days of Summer (2009)", "500+days+of+summer+2009"),
        ("Death Note: Desu nôto (2006–2007)", "death+note+desu+noto+2006"),  # noqa: RUF001 - as MovieLens has it
        ("Babylon 5", "babylon+5+"),
        ("¡? (2001)", "untitled+2001"),
    ],
)
def test_a_title_becomes_the_id_of_the_stream(title: str, movie: str) -> None:
    assert tastes.movie_id(title) == movie


def test_every_movie_id_has_the_documented_form(known: Tastes) -> None:
    form = re.compile(r"[a-z0-9+._*-]+\+(?:[0-9]{4})?")
    assert [movie for movie in known.movie_ids if not form.fullmatch(movie)] == []
    assert len(set(known.movie_ids)) == len(known.movie_ids)


def test_movies_of_one_id_are_one_movie(known: Tastes) -> None:
    rated = set(zip(known.persons.tolist(), known.movies.tolist(), strict=True))
    assert len(rated) == len(known.persons)


def test_stars_have_the_distribution_of_the_stream(known: Tastes) -> None:
    n = len(known.stars)
    shares = np.bincount(known.stars, minlength=6)[1:] / n
    assert shares == pytest.approx(tastes.STAR_SHARES, abs=1 / n)


def test_who_liked_something_better_still_does() -> None:
    half_stars = np.array([0.5, 5.0, 3.0, 4.0, 4.5] * 40)
    stars = tastes.five_stars(half_stars, np.arange(200) % 5)
    order = np.argsort(half_stars, kind="stable")
    assert (np.diff(stars[order]) >= 0).all()


def test_equal_ratings_are_told_apart_by_how_well_the_movie_is_liked() -> None:
    # 50 people rate 4.0 for movie 0, 50 for movie 1, and one more person hates movie 0.
    half_stars = np.array([4.0] * 100 + [0.5])
    movies = np.array([0] * 50 + [1] * 50 + [0])
    stars = tastes.five_stars(half_stars, movies)
    assert stars[:50].max() <= stars[50:100].min()


def test_twenty_movies_get_two_fifths_of_the_minutes(known: Tastes) -> None:
    shares = np.bincount(known.movies, weights=np.diff(known.watch_shares, prepend=0.0))
    assert np.sort(shares)[-20:].sum() == pytest.approx(0.39, abs=0.02)


def test_only_what_has_no_year_is_longer_than_a_film(known: Tastes) -> None:
    series = np.array([movie.endswith("+") for movie in known.movie_ids])
    assert known.lengths_min[~series].max() <= 220
    assert known.lengths_min[series].min() >= 300
    assert known.lengths_min[series].max() <= 1_064


def test_a_missing_folder_is_told_with_the_way_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=rf"{tmp_path}.*git checkout tests/data"):
        tastes.load(tmp_path)


@pytest.mark.parametrize("content", [b"movieId,name\n1,x\n", b'movieId,title\n1,"Up (2009)"\n'])
def test_files_that_are_not_movielens_are_told(content: bytes, tmp_path: Path) -> None:
    for name in ("movies", "ratings"):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(StackError, match="cannot be read"):
        tastes.load(tmp_path)
