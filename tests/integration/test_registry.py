"""The registry with real git and real DVC: each commit is a second or two of theirs."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

from pipelines.data.batches import list_batches, read_ratings, read_viewings
from pipelines.data.collect import collect
from pipelines.errors import ModelError, RegistryError
from pipelines.events.sources import FileSource
from pipelines.model import artifact, registry
from pipelines.model.registry import Registry, Version
from pipelines.model.repository import Repository
from pipelines.model.train import TrainConfig, load_ratings, train

CONFIG = TrainConfig(seed=20, svd_factors=3, svd_epochs=2, trending_half_life_days=2.0)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROJECT_DIR = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stands for kill -9: no handler for errors may catch it."""


class Workshop:
    """A stream, its batches, and models trained on them, below one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.batches = folder / "batches"
        self.model = folder / "run" / "model"
        self.registry_dir = folder / "registry"
        self._log = folder / "movielog.log"
        self._minute = 0

    def registry(self, **remotes):
        return Registry(self.registry_dir, **remotes)

    def retrain(self):
        """Let viewers do something, collect it, train on everything there is."""
        self._minute += 1
        with self._log.open("a") as log:
            for user in range(1, 9):
                time, movie = (
                    f"2026-01-01T10:{self._minute:02}:0{user}",
                    f"film+{(user + self._minute) % 5}+1999",
                )
                log.write(f"{time},{user},GET /rate/{movie}={1 + user % 5}\n")
                log.write(f"{time},{user + 1},GET /data/m/{movie}/{self._minute}.mpg\n")
        collect(FileSource(self._log), self.batches)
        return self.train()

    def train(self):
        names = [batch.name for batch in list_batches(self.batches)]
        return self.fit(self.batches, self.model, {"batches": names})

    def fit(self, batches, out, provenance):
        return train(
            read_ratings(batches),
            read_viewings(batches),
            out,
            config=CONFIG,
            scale=(1, 5),
            judge=None,
            provenance=provenance,
            trained_on=NOON,
        )

    def commit(self, rmse=0.9, **remotes):
        return self.registry(**remotes).commit(self.model, self.batches, {"rmse": rmse})

    def git(self, *arguments, folder=None):
        command = ["git", "-C", folder or self.registry_dir, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def shop(tmp_path):
    made = Workshop(tmp_path)
    made.retrain()
    return made


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory):
    """A registry of two versions that tests only read from, and the bytes of both models."""
    shop = Workshop(tmp_path_factory.mktemp("two"))
    shop.bytes = {}
    for number, rmse in ((1, 0.91), (2, 0.92)):
        shop.retrain()
        shop.commit(rmse)
        shop.bytes[number] = arrays_of(shop.model)
    return shop


def arrays_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


# --- what a version is -------------------------------------------------------------------------------


def test_a_version_is_a_tagged_commit_of_data_model_figures_and_number(two_versions):
    git = two_versions.git
    assert git("log", "--format=%s", "v2").splitlines() == [
        "Data and model version update: [2]",
        "Data and model version update: [1]",
    ]
    assert git("rev-parse", "v2") == git("rev-parse", "main")
    assert git("show", "v1:version.txt") == "1"
    assert json.loads(git("show", "v1:metrics.json"))["rmse"] == 0.91
    assert set(git("ls-tree", "--name-only", "v2").splitlines()) >= {
        "batches.dvc",
        "model.dvc",
        "metrics.json",
    }
    assert git("status", "--porcelain") == ""


def test_versions_are_listed_oldest_first(two_versions):
    first, second = two_versions.registry().versions()
    assert (first.number, first.rmse, second.number, second.rmse) == (1, 0.91, 2, 0.92)
    assert first.commit == two_versions.git("rev-parse", "v1")
    assert first.created_at <= second.created_at <= datetime.now(UTC)
    assert first.as_json()["created_at"] == first.created_at.isoformat()


def test_figures_of_a_version_are_read_from_its_commit(two_versions):
    assert two_versions.registry().metrics(1)["rmse"] == 0.91
    with pytest.raises(RegistryError, match=r"no version 3 .* it holds v1 to v2"):
        two_versions.registry().metrics(3)


def test_the_same_data_and_model_are_the_same_version(shop):
    first = shop.commit()
    shop.train()
    assert shop.commit() == first
    assert [info.number for info in shop.registry().versions()] == [1]


def test_metrics_may_be_a_whole_model_json(shop):
    meta = artifact.read_meta(shop.model)
    shop.registry().commit(shop.model, shop.batches, {**meta, "metrics": {"rmse": 0.8}})
    (info,) = shop.registry().versions()
    assert info.rmse == 0.8
    assert shop.registry().metrics(1)["version"] == 1
    assert shop.registry().metrics(1)["provenance"] == meta["provenance"]


def test_only_batches_the_model_was_trained_on_go_into_its_version(shop):
    named = {path.name for path in shop.batches.glob("*.parquet")}
    (shop.batches / "movielog~1-0-000000999990-000000999999.parquet").write_bytes(b"came in since")
    shop.commit()
    exported = shop.registry().export_batches(1, shop.folder / "out")
    assert {path.name for path in exported.iterdir()} == named


def test_a_batch_that_housekeeping_removed_is_kept_by_the_registry(shop):
    shop.commit()
    old = next(shop.batches.glob("*.parquet"))
    meta = shop.retrain()
    old.unlink()
    assert shop.commit().number == 2
    exported = shop.registry().export_batches(2, shop.folder / "out")
    assert {path.name for path in exported.iterdir()} == set(meta["provenance"]["batches"])


def test_a_model_without_its_data_makes_no_version(shop):
    next(shop.batches.glob("*.parquet")).unlink()
    with pytest.raises(RegistryError, match="1 of the 1 batches of this model are neither in"):
        shop.commit()
    assert shop.registry().versions() == []


def test_a_damaged_model_makes_no_version(shop):
    with (shop.model / "svd_user_bias.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(ModelError, match="SHA-256 differs"):
        shop.commit()
    assert not shop.registry_dir.exists()


def test_an_empty_registry_has_no_versions(tmp_path):
    empty = Registry(tmp_path / "registry")
    assert empty.versions() == []
    with pytest.raises(RegistryError, match=r"no version 1 .* it is empty"):
        empty.export(1, tmp_path / "models")
    empty.init()
    assert empty.versions() == []
    assert empty.push() == ""


# --- getting a version back --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_any_version_can_be_exported_and_retrained_to_the_same_bytes(two_versions, tmp_path, number):
    model = two_versions.registry().export(number, tmp_path / "models")
    assert model == tmp_path / "models" / f"v{number}"
    assert artifact.load(model, verify=True).version == number
    batches = two_versions.registry().export_batches(number, tmp_path / "batches")
    again = two_versions.fit(batches, tmp_path / "again", artifact.read_meta(model)["provenance"])
    assert arrays_of(tmp_path / "again") == arrays_of(model) == two_versions.bytes[number]
    assert {**again, "version": number} == artifact.read_meta(model)


RETRAIN = """
import gzip, sys
from datetime import UTC, datetime
from pathlib import Path
import pandas as pd
from pipelines.model import recipe
from pipelines.model.artifact import fingerprint
from pipelines.model.train import TrainConfig, train
recipe._DENSE_BELOW = 0
columns = {"userId": "user_id", "movieId": "movie_id"}
ratings = pd.read_csv(sys.argv[1], dtype={"userId": "str", "movieId": "str"}).rename(columns=columns)
config = TrainConfig(seed=20, svd_factors=5, svd_epochs=2, trending_half_life_days=2.0)
meta = train(ratings, None, Path(sys.argv[2]), config=config, scale=None, judge=None, provenance={})
print(fingerprint(meta))
"""


def test_the_number_of_threads_does_not_change_a_model(tmp_path):
    ratings = PROJECT_DIR / "tests" / "data" / "ml-latest-small" / "ratings.csv.gz"
    prints = set()
    for threads in "12":
        command = [sys.executable, "-c", RETRAIN, str(ratings), str(tmp_path / threads)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_DIR), "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        prints.add(done.stdout)
    assert len(prints) == 1


def test_export_leaves_a_sound_folder_alone_and_replaces_a_broken_one(two_versions, tmp_path, monkeypatch):
    folder = two_versions.registry().export(1, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Repository, "dvc", None)
        assert two_versions.registry().export(1, tmp_path) == folder
    (folder / "user_ids.npy").unlink()
    two_versions.registry().export(1, tmp_path)
    artifact.load(folder, verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["v1"]


def test_export_works_while_the_remotes_are_away(two_versions, tmp_path):
    away = two_versions.registry(git_remote="/nowhere/git", dvc_remote="http://127.0.0.1:9/dvc")
    away.init()
    assert artifact.load(away.export(1, tmp_path)).version == 1
    two_versions.registry().init()


def test_batches_are_not_laid_over_an_existing_folder(two_versions, tmp_path):
    with pytest.raises(RegistryError, match="exists; name a folder that does not"):
        two_versions.registry().export_batches(1, tmp_path)


def test_what_is_nowhere_to_be_had_is_an_error_and_leaves_nothing(shop):
    shop.commit()
    shutil.rmtree(shop.registry_dir / ".dvc" / "cache")
    with pytest.raises(RegistryError, match="`dvc get` failed"):
        shop.registry().export(1, shop.folder / "models")
    assert list((shop.folder / "models").iterdir()) == []


def test_a_model_damaged_in_the_cache_is_not_laid_out(shop):
    shop.commit()
    size = (shop.model / "movie_ids.npy").stat().st_size
    for path in (shop.registry_dir / ".dvc" / "cache" / "files").rglob("*"):
        if path.is_file() and path.stat().st_size == size:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises((ModelError, RegistryError)):
        shop.registry().export(1, shop.folder / "models")
    assert list((shop.folder / "models").iterdir()) == []


def test_a_ratings_file_edited_later_is_still_what_it_was(shop):
    shop.commit()
    ratings = shop.folder / "ratings.csv"
    ratings.write_text("user_id,movie_id,rating,timestamp\nu,a,3,1\nv,a,4,2\nv,b,5,3\n")
    before = ratings.read_bytes()
    loaded = load_ratings(ratings)
    train(loaded, None, shop.model, config=CONFIG, scale=None, judge=None, provenance={})
    shop.registry().commit(shop.model, ratings, {})
    with ratings.open("a") as file:
        file.write("w,b,1,4\n")
    train(load_ratings(ratings), None, shop.model, config=CONFIG, scale=None, judge=None, provenance={})
    assert shop.registry().commit(shop.model, ratings, {}).number == 3
    assert [info.as_json()["rmse"] for info in shop.registry().versions()] == [0.9, None, None]
    for number, content in ((2, before), (3, ratings.read_bytes())):
        (exported,) = shop.registry().export_batches(number, shop.folder / f"out{number}").iterdir()
        assert (exported.name, exported.read_bytes()) == ("ratings.csv", content)


# --- killed, crowded, disturbed ----------------------------------------------------------------------

STEPS = [
    ("dvc", "add", "before"),
    ("dvc", "add", "after"),
    ("git", "add", "after"),
    ("git", "commit", "after"),
    ("git", "rev-parse", "before"),  # the tag is there, the caller was not told
]


def kill_at(monkeypatch, tool, command, when):
    real = getattr(Repository, tool)

    def killed(self, *arguments, **options):
        if arguments[0] != command:
            return real(self, *arguments, **options)
        if when == "after":
            real(self, *arguments, **options)
        raise Killed

    monkeypatch.setattr(Repository, tool, killed)


@pytest.mark.parametrize(("tool", "command", "when"), STEPS)
def test_killed_anywhere_and_run_again_there_is_one_version(shop, monkeypatch, tool, command, when):
    with monkeypatch.context() as patched:
        kill_at(patched, tool, command, when)
        with pytest.raises(Killed):
            shop.commit()
    again = shop.commit()
    assert again.number == 1
    assert shop.git("rev-list", "--count", "main") == "1"
    assert shop.git("tag", "--list") == "v1"
    assert artifact.load(shop.registry().export(1, shop.folder / "models"), verify=True).version == 1


def test_a_version_killed_before_its_tag_is_finished_when_another_model_comes(shop, monkeypatch):
    with monkeypatch.context() as patched:
        kill_at(patched, "git", "commit", "after")
        with pytest.raises(Killed):
            shop.commit(0.91)
    shop.retrain()
    assert shop.commit(0.92).number == 2
    assert [info.rmse for info in shop.registry().versions()] == [0.91, 0.92]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from pipelines.model.registry import Registry
from pipelines.model.repository import Repository
folder, kill = Path(sys.argv[1]), sys.argv[3]
real = Repository.git
def git(self, *arguments, **options):
    shown = real(self, *arguments, **options)
    if arguments[0] == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return shown
Repository.git = git
print(Registry(folder / "registry").commit(folder / sys.argv[2], folder / "batches", {"rmse": 0.9}).number)
"""


def start(shop, model, kill="never"):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(shop.folder), model, kill],
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_locks_of_a_killed_process_do_not_stop_the_next(shop):
    with start(shop, "run/model", kill="commit") as process:
        process.communicate()
    assert process.returncode == -9
    (shop.registry_dir / ".git" / "index.lock").touch()
    (shop.registry_dir / ".git" / "refs" / "heads" / "main.lock").touch()
    # DVC remembers a writer by its pid, which by now may be anybody's: here, our own.
    held = {"write": {str(shop.registry_dir / "model"): {"pid": os.getpid(), "cmd": "dvc add"}}, "read": {}}
    (shop.registry_dir / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held))
    shop.retrain()
    assert shop.commit().number == 2


def test_two_processes_at_once_make_two_consecutive_versions(shop):
    shutil.copytree(shop.model, shop.folder / "other")
    shop.retrain()
    with start(shop, "other") as first, start(shop, "run/model") as second:
        numbers = {first.communicate()[0].strip(), second.communicate()[0].strip()}
    assert numbers == {"1", "2"}
    assert [info.number for info in shop.registry().versions()] == [1, 2]


def test_a_registry_that_stays_busy_is_an_error(shop, monkeypatch):
    monkeypatch.setattr(registry, "LOCK_TIMEOUT_S", 0.01)
    shop.registry().init()
    with (
        FileLock(shop.registry_dir / ".lock"),
        pytest.raises(RegistryError, match="another process has been working"),
    ):
        shop.commit()


def test_a_folder_that_cannot_be_made_is_an_error(shop):
    (shop.folder / "file").touch()
    with pytest.raises(RegistryError, match="cannot be worked in"):
        Registry(shop.folder / "file" / "registry").init()


def test_settings_of_the_person_do_not_matter(shop, monkeypatch):
    """Global hooks that refuse, signatures without a key, ignored files, and no identity."""
    home = shop.folder / "home"
    (home / "hooks").mkdir(parents=True)
    for hook in ("pre-commit", "commit-msg", "reference-transaction"):
        (home / "hooks" / hook).write_text("#!/bin/sh\nexit 1\n")
        (home / "hooks" / hook).chmod(0o755)
    (home / "ignore").write_text("*.dvc\n*.json\n")
    (home / ".gitconfig").write_text(
        f"[core]\nhooksPath = {home}/hooks\nexcludesFile = {home}/ignore\n"
        "[commit]\ngpgsign = true\n[tag]\ngpgsign = true\n[init]\ndefaultBranch = other\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(shop.folder / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    assert shop.commit().number == 1
    monkeypatch.delenv("GIT_DIR")
    assert shop.git("log", "--format=%an <%ae>") == "Marquee <marquee@localhost>"
    assert shop.git("branch", "--show-current") == "main"


# --- remotes and notes -------------------------------------------------------------------------------


def test_without_remotes_a_version_stays_local(shop):
    made = shop.commit()
    assert made == Version(1, shop.git("rev-parse", "v1"), pushed=False, push_error="")


def test_a_remote_that_is_away_keeps_the_version_local_and_the_next_push_brings_all(shop):
    bare, store = shop.folder / "bare.git", shop.folder / "store"
    first = shop.commit(git_remote=str(bare), dvc_remote=str(store))
    assert (first.number, first.pushed) == (1, False)
    assert "`git push` failed" in first.push_error
    shop.git("init", "--bare", "--quiet", str(bare), folder=shop.folder)
    remotes = {"git_remote": str(bare), "dvc_remote": str(store)}
    shop.retrain()
    second = shop.commit(**remotes)
    assert (second.number, second.pushed, second.push_error) == (2, True, "")
    shop.registry(**remotes).annotate(1, "promoted")
    shop.registry(**remotes).annotate(1, "aborted: mean 612 ms is above 500 ms")
    for text in ("mean 612 ms is above 500 ms", "said again"):
        shop.registry(**remotes).tag("release-7-aborted", 1, text)
    assert shop.registry(**remotes).push() == ""
    assert shop.git("tag", "--list", folder=bare).split() == ["release-7-aborted", "v1", "v2"]
    decision = shop.git(
        "tag", "--list", "--format=%(*objectname) %(contents)", "release-7-aborted", folder=bare
    )
    assert decision.split(maxsplit=1) == [first.commit, "mean 612 ms is above 500 ms"]

    shutil.rmtree(shop.registry_dir)
    recovered = shop.registry(**remotes)
    recovered.init()
    assert [(info.number, info.note) for info in recovered.versions()] == [
        (1, "aborted: mean 612 ms is above 500 ms"),
        (2, ""),
    ]
    assert artifact.load(recovered.export(1, shop.folder / "models"), verify=True).version == 1
    shop.retrain()
    assert shop.commit(**remotes).number == 3
    assert shop.git("rev-parse", "main", folder=bare) == shop.git("rev-parse", "v3")


def test_a_changed_remote_is_followed(shop):
    for name in ("one", "two"):
        shop.git("init", "--bare", "--quiet", str(shop.folder / name), folder=shop.folder)
    assert shop.commit(git_remote=str(shop.folder / "one")).pushed
    assert shop.commit(git_remote=str(shop.folder / "two")).pushed
    assert shop.git("tag", "--list", folder=shop.folder / "two") == "v1"
    assert shop.commit() == Version(1, shop.git("rev-parse", "v1"), pushed=False, push_error="")
    assert shop.git("remote") == ""


@pytest.mark.parametrize(
    "remotes",
    [
        {"git_remote": "https://marquee:p@ss-word@127.0.0.1:9/registry.git"},
        {"dvc_remote": "https://marquee:p@ss-word@127.0.0.1:9/store"},
    ],
)
def test_passwords_in_remotes_are_not_told(shop, remotes):
    made = shop.commit(**remotes)
    assert made.push_error
    assert "ss-word" not in made.push_error
    assert "ss-word" not in shop.git("grep", "-h", "", "v1")


def test_a_note_needs_a_version(shop):
    with pytest.raises(RegistryError, match="no version 1"):
        shop.registry().annotate(1, "promoted")
