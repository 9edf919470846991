import threading
from datetime import UTC, datetime

import pytest

from pipelines.containers import keeper
from pipelines.containers.keeper import REGISTRY, Duty, Mender, Starter, killed

NOW_S = datetime(2026, 3, 2, 10, tzinfo=UTC).timestamp()
DIED = "2026-03-02T09:59:50.250000000Z"
DIED_S = NOW_S - 9.75


def container(
    service="mysql",
    *,
    died=DIED,
    exit_code=137,
    policy="always",
    status="exited",
    name=None,
    error="",
    network="x",
):
    """What `docker inspect` says of a container that was killed ten seconds ago, after an hour."""
    return {
        "Id": f"id-{service}",
        "Name": f"/marquee-{name or f'{service}-1'}",
        "State": {
            "Status": status,
            "ExitCode": exit_code,
            "Error": error,
            "StartedAt": "2026-03-02T08:59:50Z",
            "FinishedAt": died,
        },
        "HostConfig": {
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": 0},
            "NetworkMode": network,
        },
        "Config": {"Labels": {"com.docker.compose.service": service}},
    }


def events(*actions, service="mysql"):
    return [{"Action": action, "Actor": {"ID": f"id-{service}"}} for action in actions]


def names(inspected, told=None, now_s=NOW_S):
    told = events("die") if told is None else told
    return {one.name: one.why_not for one in killed(inspected, told, now_s=now_s)}


# --- who is started --------------------------------------------------------------------------------


def test_what_was_killed_is_to_be_started():
    (one,) = killed([container()], events("die"), now_s=NOW_S)
    assert (one.name, one.service, one.why_not) == ("marquee-mysql-1", "mysql", "")
    assert (one.died_s, one.lived_s) == (DIED_S, 3_600.25)


@pytest.mark.parametrize(
    "other",
    [
        {"exit_code": 143},
        {"exit_code": 1},
        {"status": "running"},
        {"status": "restarting"},
        {"policy": "no"},
        {"policy": ""},
        {"service": "canary", "name": "canary-1-next"},
    ],
    ids=lambda other: " ".join(map(str, other.values())),
)
def test_others_are_nobodys_business(other):
    one = container(**other)
    assert killed([one], events("die", service=other.get("service", "mysql")), now_s=NOW_S) == []


@pytest.mark.parametrize(
    ("told", "why_not"),
    [
        (("die",), ""),
        (("die", "stop"), "it was stopped, and did not end in time"),
        (("die", "stop", "die"), ""),
        (("die", "die", "stop"), "it was stopped, and did not end in time"),
        (("stop",), "it died before what Docker remembers"),
        ((), "it died before what Docker remembers"),
    ],
    ids=lambda told: ", ".join(told) if isinstance(told, tuple) else "",
)
def test_only_the_events_tell_a_kill_from_a_stop(told, why_not):
    said = names([container()], events(*told))["marquee-mysql-1"]
    assert said.startswith(why_not)
    assert bool(said) == bool(why_not)


def test_another_containers_stop_is_not_its_own():
    told = [*events("die"), *events("stop", service="kafka")]
    assert names([container()], told) == {"marquee-mysql-1": ""}


@pytest.mark.parametrize(("age_s", "found"), [(0.9, 0), (1.0, 1)])
def test_a_death_is_left_alone_until_docker_has_told_why(age_s, found):
    assert len(killed([container()], events("die"), now_s=DIED_S + age_s)) == found


def test_the_oldest_death_comes_first():
    younger = container("kafka", died="2026-03-02T09:59:55Z")
    told = [*events("die"), *events("die", service="kafka")]
    assert list(names([younger, container()], told)) == ["marquee-mysql-1", "marquee-kafka-1"]


@pytest.mark.parametrize("exit_code", [0, 137, 255])
@pytest.mark.parametrize("told", [(), ("die",), ("die", "stop")])
def test_who_could_not_start_without_another_is_to_be_started_however_it_ended(exit_code, told):
    early = container("nginx", exit_code=exit_code, error="cannot join network", network="container:id-door")
    (one,) = killed([early], events(*told, service="nginx"), now_s=NOW_S)
    assert (one.service, one.lives_in, one.why_not) == ("nginx", "id-door", "")


@pytest.mark.parametrize("other", [{"error": ""}, {"network": "marquee"}, {"policy": "no"}])
def test_who_was_stopped_or_failed_by_itself_is_not(other):
    kind = {"exit_code": 0, "error": "cannot join network", "network": "container:id-door"} | other
    assert killed([container("nginx", **kind)], events("die", service="nginx"), now_s=NOW_S) == []


def test_who_lives_in_another_comes_after_it():
    nginx = container("nginx", died="2026-03-02T09:59:49Z", network="container:id-mysql")
    told = [*events("die", service="nginx"), *events("die")]
    assert list(names([nginx, container()], told)) == ["marquee-mysql-1", "marquee-nginx-1"]


# --- one that is killed again and again --------------------------------------------------------------


class Docker:
    """A container that is killed as soon as it runs; notes when it was started."""

    def __init__(self, clock):
        self.clock = clock
        self.started_s = []
        self.lived_s = 0.5
        self.died_s = clock.now_s

    def containers(self, **_):
        return [
            {"Id": "id-mysql", "Status": "Exited (137) 9 seconds ago", "HostConfig": {"NetworkMode": "x"}}
        ]

    def inspect_container(self, container_id):
        at = (datetime.fromtimestamp(s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") for s in self._lifetime())
        found = container()
        found["State"] |= dict(zip(("StartedAt", "FinishedAt"), at, strict=True))
        return found

    def _lifetime(self):
        return self.died_s - self.lived_s, self.died_s

    def events(self, **_):
        return events("die")

    def start(self, container_id):
        self.started_s.append(self.clock.now_s)
        self.died_s = self.clock.now_s + self.lived_s


class Clock:
    """Time that passes when it is told to."""

    now_s = NOW_S

    def time(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(keeper, "time", clock)
    return clock


@pytest.fixture
def config(tmp_path):
    return keeper.Settings(_env_file=None, var_dir=tmp_path)


def pauses_s(docker, clock, config, seconds):
    """Look once a second for so long and return how long each death lasted, rounded."""
    starter = Starter(config, lambda: docker)
    pauses = []
    for _ in range(seconds):
        clock.now_s += 1
        died_s, before = docker.died_s, len(docker.started_s)
        starter.look()
        if len(docker.started_s) > before:
            pauses.append(round(clock.now_s - died_s))
    return pauses


def test_who_is_killed_again_and_again_waits_longer_and_longer(clock, config, caplog):
    found = pauses_s(Docker(clock), clock, config, seconds=200)
    assert found[:6] == pytest.approx([1, 4, 8, 16, 32, 60], abs=1)
    assert len(caplog.records) == len(found)


def test_who_lived_long_enough_is_started_at_once(clock, config):
    docker = Docker(clock)
    docker.lived_s = 61.0
    assert set(pauses_s(docker, clock, config, seconds=400)) <= {1, 2}


# --- duties ---------------------------------------------------------------------------------------------


class Trouble(Exception):  # noqa: N818 - reads as what it is
    pass


def looks(*outcomes):
    """A stop event and a look that has these outcomes, one after the other, and then stops."""
    stop, left = threading.Event(), list(outcomes)

    def look():
        outcome = left.pop(0)
        if not left:
            stop.set()
        if outcome:
            raise outcome

    return stop, look


def test_trouble_ends_no_duty_and_is_told_when_it_begins_and_when_it_ends(caplog):
    stop, look = looks(None, Trouble("away"), Trouble("away"), Trouble("another"), None, None)
    duty = Duty("this", look, every_s=0.0, patience_s=10.0)
    assert not duty.is_well()
    duty.run(stop)
    assert [record.getMessage() for record in caplog.records] == [
        "this: Trouble: away; it is tried again and again",
        "this: Trouble: another; it is tried again and again",
        "this: goes on",
    ]
    assert duty.is_well()


def test_duty_that_has_never_gone_well_is_not_well():
    stop, look = looks(Trouble("away"))
    duty = Duty("this", look, every_s=0.0, patience_s=10.0)
    duty.run(stop)
    assert not duty.is_well()


def test_prometheus_is_told_whether_a_duty_goes_well():
    def well():
        return REGISTRY.get_sample_value("marquee_keeper_well", {"duty": "told"})

    stop = threading.Event()
    duty = Duty("told", stop.set, every_s=0.0, patience_s=10.0)
    assert well() == 0
    duty.run(stop)
    assert well() == 1


def test_world_that_cannot_be_made_yet_is_made_later(monkeypatch):
    """As long as the database is away."""
    made, kept = iter([Trouble("away"), "world"]), []
    monkeypatch.setattr(keeper.keep, "keep", lambda world: kept.append(world) or [])

    def make():
        if isinstance(found := next(made), Exception):
            raise found
        return found

    mender = Mender(make)
    with pytest.raises(Trouble):
        mender.look()
    mender.look()
    mender.look()
    assert kept == ["world", "world"]
