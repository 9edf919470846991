"""From an answer of a real replica back to its model, data and code, on a real registry (git and DVC)."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from pipelines import retrain
from pipelines.audit.books import open_books
from pipelines.audit.explain import explain
from pipelines.audit.replay import replay
from pipelines.audit.upkeep import archive_receipts
from pipelines.audit.web import create_app
from pipelines.code import label
from pipelines.local.audience.history import history
from pipelines.model.artifact import load, read_meta
from pipelines.records.recorder import ship_once
from pipelines.release import world
from pipelines.release.entries import State
from pipelines.release.plan import Plan
from pipelines.settings import read
from serving import app as serving_app
from serving.receipts import Spool

RUN = "manual__2026-11-22T05:06:01.06+00:00"
WATCHED = "forrest+gump+1994"


class Recents:
    """What everybody watched since the training."""

    def watched(self, user_id):
        return (WATCHED,) if user_id.startswith("watcher") else ()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A version that was trained, released and asked, all receipts shipped."""
    folder = tmp_path_factory.mktemp("audited")
    log = folder / "movielog.log"
    history(log, seed=1, users=60)
    config = read(_env_file=None, var_dir=folder / "var", event_source="file", event_file=log, svd_epochs=5)
    assert retrain.run(config, run_id=RUN, announce=print) == 1
    ledger = world.ledger(config)
    opened = ledger.open(1, previous=None, plan=Plan.of(config), requested_by="test")
    ledger.decide(opened.release_id, State.PROMOTING, verdict="first version", reason="nothing serves yet")
    ledger.end(opened.release_id, State.PROMOTED)
    world.registry(config).annotate(1, "promoted")
    yield config
    world.records(config).dispose()


@pytest.fixture(scope="module")
def books(config):
    return open_books(config)


@pytest.fixture(scope="module")
def answers(config):
    """Request id and line of each answer, by user id."""
    model = load(world.registry(config).export(1, config.models_dir))
    replica = serving_app.create_app(
        model,
        version=1,
        arm="stable",
        replica="stable-1",
        receipts=Spool(config.spool_dir, "stable-1"),
        recents=Recents(),
    )
    client = replica.test_client()
    known = [model.user_id(row) for row in range(0, model.n_users, 7)]
    given = {
        user: client.get(f"/recommend/{user}")
        for user in [*known, "stranger", "watcher", f"watcher{known[0]}"]
    }
    ship_once(world.records(config), config.spool_dir)
    return {user: (answer.headers["X-Request-Id"], answer.text.strip()) for user, answer in given.items()}


def test_every_answer_is_replayed_to_the_same_bytes_from_the_registry_alone(books, config, answers):
    shutil.rmtree(config.models_dir)
    for user, (request_id, line) in answers.items():
        receipt = explain(books, request_id).receipt
        again = replay(receipt, books.registry, books.models_dir)
        assert (receipt.user_id, again.same) == (user, True), again.reason
        assert ",".join(again.movie_ids) == line


def test_what_was_watched_since_is_part_of_the_receipt(books, answers):
    receipt = explain(books, answers["watcher"][0]).receipt
    assert (receipt.source, receipt.watched) == ("folded-in", (WATCHED,))
    assert WATCHED not in receipt.movie_ids


def test_an_answer_leads_to_figures_data_code_run_gate_and_release(books, config, answers):
    found = explain(books, answers["stranger"][0])
    assert found.unknown == ()
    meta = read_meta(config.models_dir / "v1")
    assert found.origin.figures == meta["metrics"]
    assert found.origin.gate_reason == json.loads(retrain.gate_path(config, RUN).read_text())["reason"]
    assert found.origin.code_commit == label(meta["provenance"]["code"])
    lines = len(config.event_file.read_text().splitlines())
    (span,) = found.origin.offsets
    assert (span["topic"], span["first"], span["last"]) == ("movielog", 0, lines - 1)
    assert found.run_url.endswith("/runs/manual__2026-11-22T05%3A06%3A01.06%2B00%3A00")
    assert (found.release.reason, found.phase, found.became) == ("nothing serves yet", "promoted", "promoted")


def test_the_hashes_are_those_that_dvc_wrote(books, config):
    hashes = books.registry.hashes(1)
    for what, digest in hashes.items():
        assert f"md5: {digest}\n" in (config.registry / f"{what}.dvc").read_text()
        assert re.fullmatch(r"[0-9a-f]{32}\.dir", digest)


def test_what_a_model_says_of_itself_is_read_without_laying_it_out(books, config, tmp_path):
    meta = books.registry.meta(1, tmp_path)
    assert meta["provenance"]["run_id"] == RUN
    assert list(tmp_path.iterdir()) == []
    laid_out = books.registry.export(1, config.models_dir)
    assert books.registry.meta(1, config.models_dir) == read_meta(laid_out) == meta


def test_receipts_that_left_the_database_are_explained_all_the_same(books, config, answers):
    later = datetime.now(UTC) + timedelta(days=config.receipts_keep_days + 1)
    archived = archive_receipts(config, now=later)
    assert sum(day.receipts for day in archived) == len(answers)
    for request_id, line in answers.values():
        found = explain(books, request_id)
        assert (found.receipt.kept_in, ",".join(found.receipt.movie_ids)) == ("archive", line)


def test_the_page_and_the_json_say_the_same(books, answers):
    client = create_app(books).test_client()
    request_id, line = answers["stranger"]
    told = client.get(f"/receipt/{request_id}?replay=1").json
    page = client.get(f"/receipt/{request_id}?replay=1", headers={"Accept": "text/html"}).text
    assert (told["replay"]["same"], ",".join(told["receipt"]["movie_ids"])) == (True, line)
    for text in (
        told["registry"]["commit"],
        told["registry"]["dvc"]["model"],
        told["run"]["id"].split("+")[0],
    ):
        assert text in page
    assert "byte for byte" in page
