import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ModelError
from pipelines.model import artifact
from pipelines.model.arrays import Arrays
from pipelines.model.ids import MAX_ID_BYTES, IdTable, id_table
from pipelines.model.recommender import Model, Recommendation, best_rows

# Three users, four movies (most popular first), one latent factor. Only u1 rated; u1 saw "a", u2 all.
# Of late "d" is most popular, and everybody says a little for "b".
ARRAYS = Arrays(
    *id_table(["u1", "ü2", "007"]),
    np.array([[2, 1, 3] + [-1] * 17, [-1] * 20, [-1] * 20], dtype=np.int32),
    *id_table(["a", "b", "c", "d"]),
    trending=np.array([3, 0], dtype=np.int32),
    seen_indptr=np.array([0, 1, 5, 5]),
    seen_indices=np.array([0, 0, 1, 2, 3], dtype=np.int32),
    seen_weights=np.array([1, 1, 1, 1, 1], dtype=np.float32),
    neighbour_indptr=np.array([0, 3, 3, 4, 5, 6]),
    neighbour_indices=np.array([1, 2, 3, 0, 2, 1], dtype=np.int32),
    neighbour_weights=np.array([0.25, 0.5, 0.25, 0.5, -0.25, 0.125], dtype=np.float32),
    svd_user_bias=np.array([0.5], dtype=np.float32),
    svd_user_factors=np.array([[1, 2]], dtype=np.float32),
    svd_movie_bias=np.array([0.25, -0.25, 0, 0], dtype=np.float32),
    svd_movie_factors=np.array([[0.25, 0.125], [0, 0], [9, 9], [-9, -9]], dtype=np.float32),
)
ABOUT = {"scale": [1.0, 5.0], "mean": 3.0, "note": "ünicode"}
IDS = st.text(st.characters(exclude_characters=",\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.fixture
def model():
    return Model({"version": 7, "scale": [1.0, 5.0], "mean": 3.0}, ARRAYS)


@pytest.fixture
def folder(tmp_path):
    artifact.save(tmp_path / "m", ARRAYS, ABOUT)
    return tmp_path / "m"


def test_the_list_laid_out_is_read(model):
    assert model.recommend("u1") == Recommendation(["c", "b", "d"], "personal")
    assert model.recommend("u1", 2) == Recommendation(["c", "b"], "personal")


def test_a_longer_list_is_computed_and_is_the_same(model):
    # u1 saw "a": 0.25 + 0.125 for b, 0.5 for c, 0.25 for d.
    assert model.recommend("u1", 21) == Recommendation(["c", "b", "d"], "personal")


def test_what_was_watched_since_the_training_counts_and_is_left_out(model):
    # u1 saw "a" and now "d": 0.375 for b, 0.5 - 0.25 for c.
    assert model.recommend("u1", watched=["d"]) == Recommendation(["b", "c"], "personal")


def test_watching_again_what_was_seen_before_changes_nothing(model):
    assert model.recommend("u1", watched=["a", "unknown"]) == model.recommend("u1")
    assert model.recommend("ü2", watched=["d"]) == model.recommend("ü2")


def test_an_answer_may_be_changed_without_changing_the_next(model):
    model.recommend("stranger").movie_ids.clear()
    assert model.recommend("stranger").movie_ids == ["d", "a", "b", "c"]


def test_a_stranger_is_folded_in_from_what_he_watched(model):
    # "c" says 0.5 for a, everybody 0.125 for b; d comes last, because nobody says anything for it.
    assert model.recommend("stranger", watched=["c"]) == Recommendation(["a", "b", "d"], "folded-in")


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "unknown"])), st.sampled_from(["u1", "stranger"]))
def test_order_and_repeats_of_what_was_watched_change_nothing(watched, user_id):
    model = Model({"version": 7, "scale": [1.0, 5.0], "mean": 3.0}, ARRAYS)
    again = [*reversed(watched), *watched]
    assert model.recommend(user_id, watched=watched) == model.recommend(user_id, watched=again)


@pytest.mark.parametrize("watched", [["b"], ["unknown"], []])
def test_who_watched_nothing_that_says_anything_gets_what_is_trending(model, watched):
    left = [movie for movie in ["d", "a", "b", "c"] if movie not in watched]
    assert model.recommend("stranger", watched=watched) == Recommendation(left, "trending")


@pytest.mark.parametrize("user_id", ["", "stranger", "u", "u11", "u1\0", "\0", "\ud800", "x" * 5_000])
def test_strangers_get_what_is_trending_and_then_what_is_popular(model, user_id):
    assert model.recommend(user_id, 3) == Recommendation(["d", "a", "b"], "trending")
    assert model.popular(user_id, 3) == Recommendation(["a", "b", "c"], "popular")


def test_without_anything_trending_the_popular_movies_are_given(model):
    timeless = replace(ARRAYS, trending=np.empty(0, dtype=np.int32))
    assert Model(model.meta, timeless).recommend("stranger", 2).source == "popular"


def test_a_known_user_who_saw_nothing_gets_what_is_trending(model):
    assert model.recommend("007", 2) == Recommendation(["d", "a"], "trending")


def test_who_has_seen_everything_gets_nothing(model):
    assert model.recommend("ü2").movie_ids == []
    assert model.recommend("ü2", watched=["a"]).movie_ids == []
    assert model.popular("ü2").movie_ids == []


@pytest.mark.parametrize(("k", "length"), [(-1, 0), (0, 0), (1, 1), (3, 3), (4, 3), (1_000, 3)])
def test_lists_are_as_long_as_asked_while_movies_remain(model, k, length):
    assert len(model.recommend("u1", k).movie_ids) == length
    assert len(model.recommend("u1", k, ["a"]).movie_ids) == length
    assert len(model.trending("u1", k).movie_ids) == length
    assert len(model.popular("u1", k).movie_ids) == length


def test_general_lists_leave_out_what_was_seen(model):
    assert model.trending("u1", 2) == Recommendation(["d", "b"], "trending")
    assert model.popular("u1", 2) == Recommendation(["b", "c"], "popular")


def test_model_tells_its_sizes_users_and_what_they_saw(model):
    assert (model.version, model.n_users, model.n_movies) == (7, 3, 4)
    assert [model.user_id(row) for row in range(3)] == ["u1", "ü2", "007"]
    assert model.seen("ü2") == {"a", "b", "c", "d"}
    assert model.seen("7") == set()
    assert model.knows(["007", "7", "ü2"]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("user_id", "movie_id", "rating"),
    [
        ("u1", "a", 3 + 0.5 + 0.25 + (1 * 0.25 + 2 * 0.125)),
        ("u1", "c", 5.0),  # 3 + 0.5 + 27, clipped
        ("u1", "d", 1.0),  # 3 + 0.5 - 27, clipped
        ("u1", "unknown", 3 + 0.5),
        ("ü2", "b", 3 - 0.25),  # watched, never rated
        ("unknown", "a", 3 + 0.25),
        ("unknown", "unknown", 3.0),
    ],
)
def test_prediction_is_mean_plus_biases_plus_factors_within_the_scale(model, user_id, movie_id, rating):
    assert model.predict(user_id, movie_id) == rating


def test_many_predictions_are_the_single_ones(model):
    users, movies = ["u1", "ü2", "x", "u1"], ["a", "b", "c", "x"]
    single = [model.predict(user, movie) for user, movie in zip(users, movies, strict=True)]
    assert model.predict_many(users, movies).tolist() == single
    assert model.predict_many([], []).tolist() == []


@given(st.lists(IDS, min_size=1, max_size=30, unique=True), st.lists(IDS, max_size=5))
def test_ids_are_found_again_and_others_are_not(ids, others):
    table = IdTable(*id_table(ids))
    assert table.rows(ids).tolist() == list(range(len(ids)))
    assert table.texts(np.arange(len(ids))) == ids
    assert [row >= 0 for row in table.rows(others)] == [other in ids for other in others]
    assert [table.row(text) for text in [*ids, *others]] == table.rows([*ids, *others]).tolist()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.data())
def test_best_rows_are_the_head_of_a_full_sort(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    good = [row for row in range(len(scores)) if scores[row] > 0]
    full = sorted(good, key=lambda row: (-scores[row], row))
    assert best_rows(np.array(scores, dtype=np.float64), k).tolist() == full[:k]


@pytest.mark.parametrize("bad", ["", "a\0", "\0a", "x" * (MAX_ID_BYTES + 1)])
def test_an_id_that_cannot_be_stored_is_refused(bad):
    with pytest.raises(ModelError, match="cannot be stored: wanted 1 to 1020 bytes"):
        id_table(["good", bad])


def test_what_is_loaded_is_what_was_saved(folder):
    model = artifact.load(folder, verify=True)
    assert model.recommend("u1").movie_ids == ["c", "b", "d"]
    assert model.version is None
    assert model.meta["note"] == "ünicode"
    assert model.meta == artifact.read_meta(folder)


def test_arrays_are_mapped_not_read(folder):
    model = artifact.load(folder)
    assert isinstance(model._arrays.user_lists.base, np.memmap)
    assert not model._arrays.user_lists.flags.writeable


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(folder):
    (folder / "left over").touch()
    artifact.save(folder, ARRAYS, {**ABOUT, "note": "second"})
    assert artifact.load(folder).meta["note"] == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["m"]
    assert not (folder / "left over").exists()


def test_equal_models_have_equal_files(folder, tmp_path):
    artifact.save(tmp_path / "n", ARRAYS, ABOUT)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "n" / path.name).read_bytes()


def test_a_failed_save_leaves_the_old_model(folder):
    with pytest.raises(ValueError, match="Out of range float"):
        artifact.save(folder, ARRAYS, {**ABOUT, "mean": float("nan")})
    assert artifact.load(folder).meta["mean"] == 3.0


def test_fingerprint_is_of_the_answers_not_of_time_or_number(folder, tmp_path):
    meta = artifact.read_meta(folder)
    same = artifact.save(tmp_path / "n", ARRAYS, {**ABOUT, "trained_on": "later"})
    assert artifact.fingerprint({**same, "version": 3}) == artifact.fingerprint(meta)
    other = artifact.save(tmp_path / "o", ARRAYS, {**ABOUT, "mean": 3.5})
    assert artifact.fingerprint(other) != artifact.fingerprint(meta)


@pytest.mark.parametrize("name", [path + ".npy" for path in Arrays.__slots__])
def test_a_missing_array_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        artifact.load(folder)


def test_a_shortened_array_is_noticed_without_reading_it(folder):
    os.truncate(folder / "user_lists.npy", 100)
    with pytest.raises(ModelError, match=r"user_lists\.npy has 100 bytes, wanted 368"):
        artifact.load(folder)


def test_a_flipped_byte_is_noticed_when_asked_to_verify(folder):
    content = bytearray((folder / "user_lists.npy").read_bytes())
    content[-1] ^= 1
    (folder / "user_lists.npy").write_bytes(content)
    artifact.load(folder)
    with pytest.raises(ModelError, match="SHA-256 differs"):
        artifact.load(folder, verify=True)


def change(folder, **changes):
    meta = artifact.read_meta(folder)
    for name, array in changes.items():
        np.save(folder / f"{name}.npy", array)
        meta["files"][f"{name}.npy"]["bytes"] = (folder / f"{name}.npy").stat().st_size
    artifact.write_meta(folder, meta)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"svd_movie_bias": np.zeros(3, np.float32)}, "svd_movie_bias has 3 rows, wanted 4"),
        ({"seen_indptr": np.zeros(3, np.int64)}, "seen_indptr has 3 rows, wanted 4"),
        ({"user_lists": np.zeros((2, 20), np.int32)}, "user_lists has 2 rows, wanted 3"),
        ({"neighbour_indptr": np.zeros(5, np.int64)}, "neighbour_indptr has 5 rows, wanted 6"),
        ({"seen_weights": np.zeros(4, np.float32)}, "seen_weights has 4 rows, wanted 5"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(ModelError, match=message):
        artifact.load(folder)


def test_a_file_that_is_no_array_is_refused(folder):
    (folder / "user_ids.npy").write_bytes(b"not an array")
    meta = artifact.read_meta(folder)
    meta["files"]["user_ids.npy"]["bytes"] = len(b"not an array")
    artifact.write_meta(folder, meta)
    with pytest.raises(ModelError, match="cannot be used"):
        artifact.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "model.json cannot be read"),
        ("[]", "model.json lacks one of"),
        ("{}", "model.json lacks one of"),
        (
            json.dumps({"format": 99, "version": 1, "scale": [1, 5], "mean": 3, "files": {}}),
            "has format 99, this code reads 2",
        ),
    ],
)
def test_a_model_json_of_another_kind_is_refused(folder, text, message):
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        artifact.load(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model\.json cannot be read"):
        artifact.load(tmp_path / "nothing")


def test_threads_share_a_model(folder):
    model = artifact.load(folder)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(model.recommend("u1").movie_ids)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [["c", "b", "d"]] * 8
