"""What a new container may be, and above all what not."""

import pytest
from gate.create import DAEMON_DECIDES, GATE_DECIDES, HOST_CONFIG, judge_create
from gate.policy import PROJECT, SERVICE, TASK
from gate.refusal import Refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gate import POLICY, replica_body, training_body


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (replica_body(), "shop-canary-1-next"),
        (replica_body(), "shop-canary-1"),
        (training_body(), "shop-train"),
    ],
)
def test_what_the_fleet_and_airflow_make_is_let_through(body, name):
    passed = judge_create(body, name, POLICY)
    assert passed["HostConfig"]["Memory"] == body["HostConfig"]["Memory"]
    assert judge_create(passed, name, POLICY) == passed


def test_docker_decides_what_is_masked_and_nothing_empty_is_sent():
    host = judge_create(replica_body(MaskedPaths=[], ReadonlyPaths=[]), "shop-canary-1", POLICY)["HostConfig"]
    assert host.keys().isdisjoint({*DAEMON_DECIDES, "Privileged", "CapAdd", "PortBindings"})


@pytest.mark.parametrize("host", [{}, {"CapDrop": ["NET_RAW"], "SecurityOpt": None}])
@pytest.mark.parametrize("made", [replica_body, training_body])
def test_no_file_of_an_image_gives_rights(made, host):
    name = "shop-canary-1" if made is replica_body else "shop-train"
    kept = judge_create(made(**host), name, POLICY)["HostConfig"]
    assert {key: kept[key] for key in GATE_DECIDES} == {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
    }


def test_a_training_takes_no_service_from_its_image():
    body = training_body()
    assert SERVICE not in body["Labels"]
    assert judge_create(body, "shop-train", POLICY)["Labels"] == body["Labels"] | {SERVICE: ""}


HOST_ATTACKS = {
    "privileges": {"Privileged": True},
    "capability": {"CapAdd": ["SYS_ADMIN"]},
    "device": {"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda"}]},
    "device by rule": {"DeviceCgroupRules": ["b 8:* rmw"]},
    "graphics": {"DeviceRequests": [{"Count": -1}]},
    "the host's processes": {"PidMode": "host"},
    "another container's processes": {"PidMode": "container:shop-mysql-1"},
    "the host's memory": {"IpcMode": "host"},
    "another container's memory": {"IpcMode": "container:shop-mysql-1"},
    "the host's name": {"UTSMode": "host"},
    "the host's users": {"UsernsMode": "host"},
    "another group": {"GroupAdd": ["docker"]},
    "no seccomp": {"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]},
    "no confinement": {"SecurityOpt": ["apparmor=unconfined"]},
    "kernel setting": {"Sysctls": {"net.ipv4.ip_forward": "1"}},
    "another runtime": {"Runtime": "sysbox-runc"},
    "another cgroup": {"CgroupParent": "/system.slice"},
    "protection from the killer": {"OomScoreAdj": -1000},
    "no killer": {"OomKillDisable": True},
    "port": {"PortBindings": {"22/tcp": [{"HostPort": "22"}]}},
    "all ports": {"PublishAllPorts": True},
    "the host's network": {"NetworkMode": "host"},
    "another container's network": {"NetworkMode": "container:shop-gate-1"},
    "the gate's network": {"NetworkMode": "shop_docker"},
    "the way out": {"NetworkMode": "shop_edge"},
    "the default network": {"NetworkMode": ""},
    "another project's network": {"NetworkMode": "bank_marquee"},
    "link": {"Links": ["shop-mysql-1:mysql"]},
    "name server": {"Dns": ["192.0.2.1"]},
    "host name of another": {"ExtraHosts": ["mysql:192.0.2.1"]},
    "folder of the host": {"Binds": ["/:/host"]},
    "the socket": {"Binds": ["/var/run/docker.sock:/s"]},
    "folder by a relative path": {"Binds": ["./etc:/etc"]},
    "database": {"Binds": ["shop_mysql:/var/lib/mysql"]},
    "another project's volume": {"Binds": ["bank_state:/state"]},
    "mount that is shared": {"Binds": ["shop_state:/state:rw,rshared"]},
    "no target": {"Binds": ["shop_state"]},
    "another container's volumes": {"VolumesFrom": ["shop-gate-1"]},
    "driver of volumes": {"VolumeDriver": "local"},
    "folder of the host as a mount": {"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]},
    "pipe": {"Mounts": [{"Type": "npipe", "Source": "x", "Target": "/x"}]},
    "folder of the host as a new volume": {
        "Mounts": [
            {
                "Type": "volume",
                "Source": "shop_state",
                "Target": "/host",
                "VolumeOptions": {"DriverConfig": {"Options": {"type": "none", "o": "bind", "device": "/"}}},
            }
        ]
    },
    "mount in lower case": {"Mounts": [{"type": "bind", "source": "/", "target": "/host"}]},
    "log server": {"LogConfig": {"Type": "syslog", "Config": {"syslog-address": "tcp://192.0.2.1"}}},
    "log of no kind": {"LogConfig": "json-file"},
    "file of the id": {"ContainerIDFile": "/etc/cron.d/x"},
    "what nobody has heard of": {"NewInDocker99": "x"},
    "another case": {"privileged": True},
    "a Kelvin sign": {"\u212aernelMemory": 1},
    "limit of no name": {"Ulimits": [{"Name": {"a": "b"}}]},
    "limit that is none": {"Ulimits": [{"Name": "nofile", "Soft": float("inf")}]},
    "restart of no number": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": {"a": 1}}},
}


@pytest.mark.parametrize("host", HOST_ATTACKS.values(), ids=HOST_ATTACKS)
@pytest.mark.parametrize("made", [replica_body, training_body])
def test_a_container_that_asks_for_more_is_refused(made, host):
    name = "shop-canary-1" if made is replica_body else "shop-train"
    with pytest.raises(Refusal, match=r"gate: .*allowed: ") as refusal:
        judge_create(made(**host), name, POLICY)
    assert refusal.value.status == 403


CONFIG_ATTACKS = {
    "another project": {"Labels": {PROJECT: "bank", SERVICE: "canary"}},
    "no project": {"Labels": {SERVICE: "canary"}},
    "another service": {"Labels": {PROJECT: "shop", SERVICE: "mysql"}},
    "a service that calls itself a training": {"Labels": {PROJECT: "shop", SERVICE: "mysql", TASK: "train"}},
    "neither replica nor training": {"Labels": {PROJECT: "shop"}},
    "root": {"User": "0:0"},
    "root by name": {"User": "root"},
    "whom the image says": {"User": ""},
    "group of root": {"User": "10001:0"},
    "group that the image says": {"User": "10001"},
    "anonymous volume": {"Volumes": {"/var/lib": {}}},
    "address of a card": {"MacAddress": "02:42:ac:11:00:02"},
    "standard input": {"AttachStdin": True, "OpenStdin": True},
    "HostConfig in another case": {"hostConfig": {"Privileged": True}},
    "HostConfig with a long s": {"Ho\u017ftConfig": {"Privileged": True}},
    "another image": {"Image": "mysql:9"},
    "an image by its id": {"Image": f"sha256:{'0' * 64}"},
    "another runtime": {"Runtime": "sysbox-runc"},
    "another network beside": {"NetworkingConfig": {"EndpointsConfig": {"shop_docker": {}}}},
    "the database's name as a host": {"Hostname": "mysql"},
    "the id of another": {
        "NetworkingConfig": {"EndpointsConfig": {"shop_marquee": {"Aliases": ["0123456789ab"]}}}
    },
    "an address": {
        "NetworkingConfig": {"EndpointsConfig": {"shop_marquee": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}}
    },
    "the database's name": {
        "NetworkingConfig": {"EndpointsConfig": {"shop_marquee": {"Aliases": ["canary", "mysql"]}}}
    },
}


@pytest.mark.parametrize("config", CONFIG_ATTACKS.values(), ids=CONFIG_ATTACKS)
def test_a_container_that_is_somebody_else_is_refused(config):
    with pytest.raises(Refusal, match=r"gate: .*allowed: "):
        judge_create(replica_body() | config, "shop-canary-1", POLICY)


@pytest.mark.parametrize(
    "name",
    [
        *("shop-mysql-1", "shop-stable-1-1", "gate", "", "shop-canary-1/../x", "shop-canary-10"),
        "shop-canary-1-db",
    ],
)
def test_a_replica_gets_no_other_name(name):
    with pytest.raises(Refusal, match="container name"):
        judge_create(replica_body(), name, POLICY)


@pytest.mark.parametrize("name", ["shop-trainer-1", "shop-train-db-1", "shop-mysql-1", "shop-canary-1", ""])
def test_a_training_gets_no_other_name(name):
    with pytest.raises(Refusal, match="container name"):
        judge_create(training_body(), name, POLICY)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "host", "/", "shop_state", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["Type", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*HOST_CONFIG, "Privileged", "CapAdd", "PidMode", "x"]), values)
def test_whatever_a_key_holds_it_is_refused_or_known(key, value):
    try:
        passed = judge_create(replica_body(**{key: value}), "shop-canary-1", POLICY)
    except Refusal:
        return
    assert passed["HostConfig"].keys() <= HOST_CONFIG.keys()
    assert all(passed["HostConfig"].values())
