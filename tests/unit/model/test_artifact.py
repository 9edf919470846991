import json
import os

import numpy as np
import pytest

from pipelines.errors import ModelError
from pipelines.model import artifact
from pipelines.model.arrays import Arrays

ABOUT = {"scale": [1.0, 5.0], "mean": 3.0, "note": "ünicode"}


@pytest.fixture
def folder(tmp_path, arrays):
    artifact.save(tmp_path / "m", arrays, ABOUT)
    return tmp_path / "m"


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


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(folder, arrays):
    (folder / "left over").touch()
    artifact.save(folder, arrays, {**ABOUT, "note": "second"})
    assert artifact.load(folder).meta["note"] == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["m"]
    assert not (folder / "left over").exists()


def test_what_is_no_model_is_not_replaced(tmp_path, arrays):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter 1").touch()
    for taken in (tmp_path / "thesis", tmp_path / "thesis" / "chapter 1"):
        with pytest.raises(ModelError, match="holds no model, and would be replaced: name another folder"):
            artifact.save(taken, arrays, ABOUT)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter 1"]
    (tmp_path / "empty").mkdir()
    artifact.save(tmp_path / "empty", arrays, ABOUT)


def test_a_disk_that_takes_no_model_is_told_with_the_folder(tmp_path, arrays):
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file/m cannot be written \(.*; make room"):
        artifact.save(tmp_path / "file" / "m", arrays, ABOUT)


def test_equal_models_have_equal_files(folder, tmp_path, arrays):
    artifact.save(tmp_path / "n", arrays, ABOUT)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "n" / path.name).read_bytes()


def test_a_failed_save_leaves_the_old_model(folder, arrays):
    with pytest.raises(ValueError, match="Out of range float"):
        artifact.save(folder, arrays, {**ABOUT, "mean": float("nan")})
    assert artifact.load(folder).meta["mean"] == 3.0


def test_fingerprint_is_of_the_answers_not_of_time_or_number(folder, tmp_path, arrays):
    meta = artifact.read_meta(folder)
    same = artifact.save(tmp_path / "n", arrays, {**ABOUT, "trained_on": "later"})
    assert artifact.fingerprint({**same, "version": 3}) == artifact.fingerprint(meta)
    other = artifact.save(tmp_path / "o", arrays, {**ABOUT, "mean": 3.5})
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
