import httpx
import pytest

from pipelines.errors import RouterError
from pipelines.release.router import Split, fingerprint, nginx, split_of
from pipelines.release.router.docker import DockerNginx
from tests.fakes import FakeNginx

BOTH = ["HUP to nginx", "HUP to nginx-spare"]
STABLE = Split(("stable-1:8000", "stable-2:8000"))
SHARED = Split(("stable-1:8000", "stable-2:8000"), "canary:8000", 20)


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr(nginx, "_OLD_WORKERS_S", 0.0)
    monkeypatch.setattr(nginx, "_LOOK_EVERY_S", 0.001)


@pytest.fixture
def engine(tmp_path):
    return FakeNginx(tmp_path / "split.conf")


def router(engine: FakeNginx, **options) -> DockerNginx:
    return DockerNginx(
        lambda: engine,
        engine.file.parent,
        status_at=("nginx:8083", "nginx-spare:8084"),
        project="test",
        transport=httpx.MockTransport(engine),
        **options,
    )


def test_a_split_is_written_told_and_read_back(engine):
    router(engine).apply(SHARED)
    assert fingerprint(SHARED) in engine.file.read_text()
    assert sorted(engine.signals) == BOTH
    assert router(engine).current() == fingerprint(SHARED)
    assert list(engine.file.parent.iterdir()) == [engine.file]


def test_what_is_followed_already_is_neither_written_nor_told(engine):
    router(engine).apply(SHARED)
    written = engine.file.stat()
    router(engine).apply(SHARED)
    engine.running.remove("nginx-spare")
    router(engine).apply(SHARED)
    assert sorted(engine.signals) == BOTH
    assert engine.file.stat() == written


def test_a_split_that_a_killed_step_has_only_written_is_told(engine):
    router(engine).apply(SHARED)
    engine.running, running = set(), engine.running
    router(engine).apply(STABLE)
    engine.running = running
    assert router(engine).current() == fingerprint(SHARED)
    router(engine).apply(STABLE)
    assert router(engine).current() == fingerprint(STABLE)


def test_a_split_whose_file_is_lost_is_written_again(engine):
    router(engine).apply(SHARED)
    engine.file.unlink()
    router(engine).apply(SHARED)
    assert fingerprint(SHARED) in engine.file.read_text()


def test_another_limit_is_told_although_the_split_is_the_same(engine):
    router(engine).apply(SHARED)
    router(engine, max_requests_per_s=50).apply(SHARED)
    assert sorted(engine.signals) == sorted(BOTH * 2)


def test_nginx_that_does_not_run_finds_its_split_when_it_starts(engine):
    engine.running.clear()
    router(engine).apply(SHARED)
    assert fingerprint(SHARED) in engine.file.read_text()
    assert engine.signals == []
    assert router(engine).current() == ""


@pytest.mark.parametrize("status", [404, 409])
def test_nginx_that_dies_before_it_is_told_finds_its_split_when_it_starts(engine, status):
    engine.rejected = status
    router(engine).apply(SHARED)
    assert fingerprint(SHARED) in engine.file.read_text()


@pytest.mark.parametrize(("dead", "alive"), [("nginx", "nginx-spare"), ("nginx-spare", "nginx")])
def test_a_split_is_in_force_while_one_of_two_is_dead_and_with_it_when_it_is_back(engine, dead, alive):
    router(engine).apply(STABLE)
    engine.running.remove(dead)
    router(engine).apply(SHARED)
    assert engine.signals[2:] == [f"HUP to {alive}"]
    assert router(engine).current() == fingerprint(SHARED)
    engine.start(dead)
    assert router(engine).current() == fingerprint(SHARED)


def test_a_split_is_not_in_force_while_one_of_two_follows_another(engine, monkeypatch):
    router(engine).apply(STABLE)
    before, engine.deaf = engine.file.read_text(), "nginx-spare"
    monkeypatch.setattr(nginx, "_TAKE_EFFECT_S", 0.01)
    both = f"{fingerprint(SHARED)} / {fingerprint(STABLE)}"
    with pytest.raises(RouterError, match=f"NGINX at nginx:8083, nginx-spare:8084 still follows '{both}'"):
        router(engine).apply(SHARED)
    assert engine.file.read_text() == before
    assert router(engine).current() == fingerprint(STABLE), "the one that took it has given it back"


def test_two_splits_at_once_are_told_of_as_none_and_mended(engine):
    router(engine).apply(SHARED)
    shared = engine.file.read_text()
    router(engine).apply(STABLE)
    stable = engine.file.read_text()
    engine.file.write_text(shared)
    engine.kill("nginx-spare", "HUP")
    engine.file.write_text(stable)
    with pytest.raises(RouterError, match="is the stack up"):
        split_of(router(engine).current())
    router(engine).apply(STABLE)
    assert split_of(router(engine).current()) == STABLE


def test_docker_that_refuses_is_told_with_where_to_look(engine):
    engine.rejected = 403
    with pytest.raises(RouterError, match=r"could not reload NGINX.*docker.test.*logs gate"):
        router(engine).apply(SHARED)


def test_what_nginx_refuses_is_put_back_and_not_held_against_the_next(engine, monkeypatch):
    monkeypatch.setattr(nginx, "_OLD_WORKERS_S", 0.01)
    router(engine).apply(STABLE)
    before, engine.refuses = engine.file.read_text(), "canary:8000"
    with pytest.raises(RouterError, match=r"refused.*\[emerg\] 1#1: invalid canary.*the split is unchanged"):
        router(engine).apply(SHARED)
    assert engine.file.read_text() == before
    engine.old_workers_answer = 3
    router(engine).apply(Split(("stable-1:8000",)))
    assert router(engine).current() == fingerprint(Split(("stable-1:8000",)))


def test_a_first_split_that_is_refused_leaves_none(engine):
    engine.refuses = "canary:8000"
    with pytest.raises(RouterError, match="refused"):
        router(engine).apply(SHARED)
    assert not engine.file.exists()


def test_nginx_that_says_nothing_is_not_waited_for_for_ever(engine, monkeypatch):
    monkeypatch.setattr(nginx, "_TAKE_EFFECT_S", 0.0)
    engine.kill = lambda *_: None
    with pytest.raises(
        RouterError, match=r"still follows 'nothing'.*canary=none.*docker compose logs nginx nginx-spare"
    ):
        router(engine).apply(STABLE)


def test_a_split_is_in_force_when_the_old_workers_have_gone(engine, monkeypatch):
    monkeypatch.setattr(nginx, "_OLD_WORKERS_S", 0.02)
    router(engine).apply(STABLE)
    # Every look takes a millisecond at least.
    engine.old_workers_answer = 30
    router(engine).apply(SHARED)
    assert {router(engine).current() for _ in range(5)} == {fingerprint(SHARED)}
