import shutil
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.audit.replay import compare, replay
from pipelines.errors import ModelError
from pipelines.model.artifact import load
from pipelines.model.recommender import Recommendation
from pipelines.records.lookup import Receipt


@pytest.fixture
def answered(books, receipt):
    """Makes the receipt of what version 2 answers this user."""

    def make(user_id, watched=(), **changes):
        given = load(books.registry.export(2, books.models_dir)).recommend(user_id, 20, watched)
        fields = {"user_id": user_id, "watched": tuple(watched), "source": given.source}
        return receipt(**(fields | {"movie_ids": tuple(given.movie_ids)} | changes))

    return make


@pytest.mark.parametrize("user_id", ["1", "2", "stranger", ""])
@pytest.mark.parametrize("watched", [(), ("m05", "m08"), ("nowhere+1999",)])
def test_asked_again_the_version_gives_the_same_list(books, answered, user_id, watched):
    again = replay(answered(user_id, watched), books.registry, books.models_dir)
    assert (again.same, again.reason) == (True, "the lists are identical, byte for byte")
    assert len(again.movie_ids) == 20


def test_who_had_seen_everything_was_shown_the_best_again_and_is_so_now(books, answered):
    model = load(books.registry.export(2, books.models_dir))
    everything = tuple(model.popular("", model.n_movies).movie_ids)
    receipt = answered("1", everything, source="popular", movie_ids=tuple(model.popular("").movie_ids))
    assert replay(receipt, books.registry, books.models_dir).same


def test_what_was_watched_decides_the_list(books, answered):
    receipt = answered("1", ("m05", "m08"))
    assert replay(receipt, books.registry, books.models_dir).same
    assert not replay(replace(receipt, watched=()), books.registry, books.models_dir).same


def test_lists_that_differ_are_told_apart_by_their_first_place(books, answered):
    receipt = answered("1")
    changed = (*receipt.movie_ids[:4], "other+1999", *receipt.movie_ids[5:])
    again = replay(answered("1", movie_ids=changed), books.registry, books.models_dir)
    assert not again.same
    assert again.reason == (
        f"the lists differ from place 5 on: other+1999 was answered, {receipt.movie_ids[4]} is recomputed"
    )
    assert again.movie_ids == receipt.movie_ids


def test_another_rung_is_named_as_the_reason(books, answered):
    fallback = answered("1", source="popular", movie_ids=("m39",))
    again = replay(fallback, books.registry, books.models_dir)
    assert "answered from the rung popular, the version itself answers from personal" in again.reason


def test_a_version_that_is_not_in_the_registry_is_a_reason(books, receipt):
    again = replay(receipt(version_number=9), books.registry, books.models_dir)
    assert (again.same, again.movie_ids) == (False, ())
    assert "version 9 cannot be asked again: there is no version 9 in the registry" in again.reason


def test_an_artifact_of_another_format_is_a_reason(books, receipt, monkeypatch):
    def refuse(version, models_dir):
        raise ModelError("the model has format 1, this code reads 2")

    monkeypatch.setattr(books.registry, "export", refuse)
    assert "has format 1" in replay(receipt(), books.registry, books.models_dir).reason


def test_an_artifact_that_is_not_what_was_trained_is_a_reason(books, answered, tmp_path):
    receipt = answered("1")
    books.registry.artifact = shutil.copytree(books.registry.artifact, tmp_path / "damaged")
    lists = books.registry.artifact / "user_lists.npy"
    damaged = bytearray(lists.read_bytes())
    damaged[-1] ^= 1
    lists.write_bytes(damaged)
    again = replay(receipt, books.registry, books.models_dir)
    assert (again.same, again.movie_ids) == (False, ())
    assert "user_lists.npy is not the file that was trained" in again.reason


def test_an_error_holds_no_list(books, receipt):
    failed = replay(receipt(status=503, movie_ids=()), books.registry, books.models_dir)
    assert failed.reason == "the answer was an error (status 503); it holds no list"


def test_a_user_id_that_may_be_cut_is_the_reason_that_comes_first(receipt):
    again = compare(receipt(user_id="x" * 255), Recommendation(["other"], "popular"))
    assert again.reason.startswith("the receipt keeps 255 characters of a user id")


def test_a_user_id_of_just_that_length_may_be_whole(receipt):
    asked = receipt(user_id="x" * 255)
    assert compare(asked, Recommendation(list(asked.movie_ids), "popular")).same


@given(
    answered=st.lists(st.sampled_from("abcd"), max_size=4, unique=True),
    now=st.lists(st.sampled_from("abcd"), max_size=4, unique=True),
)
def test_lists_are_the_same_when_their_lines_are(answered, now):
    receipt = Receipt(
        *("a", 1, "1", datetime(2026, 1, 1, tzinfo=UTC), "stable", "stable-1", "personal"),
        *(tuple(answered), (), 0.5, 200, None, "database"),
    )
    again = compare(receipt, Recommendation(now, "personal"))
    assert again.same == (answered == now)
    assert again.movie_ids == tuple(now)
