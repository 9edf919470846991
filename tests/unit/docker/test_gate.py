"""What the gate before Docker's socket lets through, and above all what not."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from urllib.parse import parse_qsl

import gate
import httptools
import pytest
from gate import Gate, Policy, Refusal
from hypothesis import given, settings
from hypothesis import strategies as st

POLICY = Policy("shop")
ID = "9f" * 32


def container(service="canary", *, project="shop", **labels):
    """What Docker says of a container."""
    labels = {gate.PROJECT: project, **({gate.SERVICE: service} if service else {}), **labels}
    config = {"Labels": labels, "Env": ["PASSWORD=s3cret"]}
    return {"Id": ID, "Name": f"/{project}-{service}-1", "Config": config}


def description(**host):
    """A replica as the fleet makes it anew: what Docker says of one that compose has made."""
    return {
        "Hostname": "06c997e54cac",
        "Domainname": "",
        "User": "10001:10001",
        "AttachStdin": False,
        "AttachStdout": True,
        "Env": ["MARQUEE_ARM=canary"],
        "Cmd": None,
        "Image": "marquee-serving:v8",
        "Volumes": None,
        "Labels": {gate.PROJECT: "shop", gate.SERVICE: "canary", "marquee.version": "8"},
        "StopTimeout": 15,
        "HostConfig": {
            "Binds": ["shop_spool:/var/lib/marquee/spool:rw", "shop_recents:/var/lib/marquee/recents:ro"],
            "ContainerIDFile": "",
            "LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}},
            "NetworkMode": "shop_marquee",
            "PortBindings": {},
            "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
            "AutoRemove": False,
            "VolumesFrom": None,
            "CapAdd": None,
            "CapDrop": ["ALL"],
            "CgroupnsMode": "host",
            "ExtraHosts": [],
            "IpcMode": "private",
            "OomScoreAdj": 0,
            "PidMode": "",
            "Privileged": False,
            "ReadonlyRootfs": True,
            "SecurityOpt": ["no-new-privileges:true"],
            "Tmpfs": {"/tmp": "size=64m"},
            "ShmSize": 67108864,
            "Runtime": "runc",
            "ConsoleSize": [0, 0],
            "Memory": 536870912,
            "NanoCpus": 1000000000,
            "MemorySwap": 1073741824,
            "MemorySwappiness": None,
            "PidsLimit": 200,
            "Ulimits": [{"Name": "nofile", "Hard": 65536, "Soft": 65536}],
            "MaskedPaths": ["/proc/kcore"],
            "ReadonlyPaths": ["/proc/sys"],
            "Init": True,
            **host,
        },
        "NetworkingConfig": {"EndpointsConfig": {"shop_marquee": {"Aliases": ["canary", "shop-canary-1"]}}},
    }


def training(**host):
    """A training as Airflow's DockerOperator makes it."""
    return {
        "User": "10001:10001",
        "Image": "marquee-airflow",
        "Cmd": ["python", "-m", "pipelines", "train"],
        "Labels": {gate.PROJECT: "shop", gate.TASK: "train"},
        "HostConfig": {
            "Mounts": [{"Target": "/var/lib/marquee", "Source": "shop_state", "Type": "volume"}],
            "NetworkMode": "shop_marquee",
            "Memory": 4 * 2**30,
            "CpuShares": 1024,
            "LogConfig": {"Type": "", "Config": {}},
            **host,
        },
    }


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (description(), "shop-canary-1-next"),
        (description(), "shop-canary-1"),
        (training(), ""),
        (training(), "shop-train-17"),
    ],
)
def test_what_the_fleet_and_airflow_make_is_let_through(body, name):
    passed = gate.judge_create(body, name, POLICY)
    assert passed["HostConfig"]["Memory"] == body["HostConfig"]["Memory"]
    assert gate.judge_create(passed, name, POLICY) == passed


def test_docker_decides_what_is_masked_and_nothing_empty_is_sent():
    host = gate.judge_create(description(MaskedPaths=[], ReadonlyPaths=[]), "shop-canary-1", POLICY)[
        "HostConfig"
    ]
    assert host.keys().isdisjoint({*gate.DAEMON_DECIDES, "Privileged", "CapAdd", "PortBindings"})


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
}


@pytest.mark.parametrize("host", HOST_ATTACKS.values(), ids=HOST_ATTACKS)
@pytest.mark.parametrize("made", [description, training])
def test_a_container_that_asks_for_more_is_refused(made, host):
    name = "shop-canary-1" if made is description else ""
    with pytest.raises(Refusal, match=r"gate: .*allowed: ") as refusal:
        gate.judge_create(made(**host), name, POLICY)
    assert refusal.value.status == 403


CONFIG_ATTACKS = {
    "another project": {"Labels": {gate.PROJECT: "bank", gate.SERVICE: "canary"}},
    "no project": {"Labels": {gate.SERVICE: "canary"}},
    "another service": {"Labels": {gate.PROJECT: "shop", gate.SERVICE: "mysql"}},
    "a service that calls itself a training": {
        "Labels": {gate.PROJECT: "shop", gate.SERVICE: "mysql", gate.TASK: "train"}
    },
    "neither replica nor training": {"Labels": {gate.PROJECT: "shop"}},
    "root": {"User": "0:0"},
    "root by name": {"User": "root"},
    "whom the image says": {"User": ""},
    "group of root": {"User": "10001:0"},
    "anonymous volume": {"Volumes": {"/var/lib": {}}},
    "address of a card": {"MacAddress": "02:42:ac:11:00:02"},
    "standard input": {"AttachStdin": True, "OpenStdin": True},
    "HostConfig in another case": {"hostConfig": {"Privileged": True}},
    "another runtime": {"Runtime": "sysbox-runc"},
    "another network beside": {"NetworkingConfig": {"EndpointsConfig": {"shop_docker": {}}}},
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
        gate.judge_create(description() | config, "shop-canary-1", POLICY)


@pytest.mark.parametrize(
    "name", ["shop-mysql-1", "shop-stable-1-1", "gate", "", "shop-canary-1/../x", "shop-canary-10"]
)
def test_a_replica_gets_no_other_name(name):
    with pytest.raises(Refusal, match="container name"):
        gate.judge_create(description(), name, POLICY)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "host", "/", "shop_state", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["Type", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*gate.HOST_CONFIG, "Privileged", "CapAdd", "PidMode", "x"]), values)
def test_whatever_a_key_holds_it_is_refused_or_known(key, value):
    try:
        passed = gate.judge_create(description(**{key: value}), "shop-canary-1", POLICY)
    except Refusal:
        return
    assert passed["HostConfig"].keys() <= gate.HOST_CONFIG.keys()
    assert all(passed["HostConfig"].values())


@pytest.mark.parametrize("image", ["marquee-serving:v8", "marquee-airflow", "marquee-airflow:latest"])
def test_images_of_the_house_are_known(image):
    assert POLICY.knows(image)


@pytest.mark.parametrize(
    "image",
    [
        "mysql:9",
        "marquee-serving:latest",
        "marquee-serving:v8x",
        "evil/marquee-serving:v8",
        "marquee-airflow:x",
        "",
    ],
)
def test_other_images_are_not(image):
    assert not POLICY.knows(image)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"HostConfig": {}, "hostconfig": {}}',
        "[]",
        "NaN",
        "{",
        '{"a": Infinity}',
        "[" * 10_000,
    ],
)
def test_json_with_two_readings_is_refused(text):
    with pytest.raises(Refusal, match="JSON") as refusal:
        gate.read_json(text)
    assert refusal.value.status == 400


def judged(path, query, **kind):
    """Let the rule of ``POST path`` or ``GET path`` look at a container."""
    method, _, path = path.partition(" ")
    request = gate.Request(method, path, query, {})
    rule, _ = gate.rule_of(request)
    gate.see_container(rule, gate.container_of(container(**kind)), query, POLICY)


TASK_LABEL = {gate.TASK: "train"}


@pytest.mark.parametrize(
    ("call", "query", "kind"),
    [
        ("POST /containers/x/stop", {"t": "3"}, {"service": "stable-1"}),
        ("POST /v1.41/containers/x/attach", {"stream": "1"}, {"service": None, **TASK_LABEL}),
        ("DELETE /containers/x", {"force": "True", "link": "False"}, {"service": "canary"}),
        ("POST /containers/x/rename", {"name": "shop-canary-1-next"}, {"service": "canary"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "nginx"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "nginx-spare"}),
        ("POST /containers/x/start", {}, {"service": "mysql"}),
        ("GET /containers/x/json", {}, {"service": "mysql"}),
        ("GET /containers/x/logs", {"since": "0"}, {"service": "nginx"}),
        ("GET /containers/x/logs", {"since": "0"}, {"service": "nginx-spare"}),
    ],
)
def test_calls_of_the_deployer_are_let_through(call, query, kind):
    judged(call, query, **kind)


@pytest.mark.parametrize(
    ("call", "query", "kind"),
    [
        ("POST /containers/x/stop", {}, {"service": "mysql"}),
        ("POST /containers/x/stop", {}, {"service": "gate"}),
        ("POST /containers/x/stop", {}, {"service": "canary", "project": "bank"}),
        ("POST /containers/x/start", {}, {"service": "canary", "project": "bank"}),
        ("GET /containers/x/json", {}, {"service": "canary", "project": "bank"}),
        ("GET /containers/x/logs", {}, {"service": "airflow-init"}),
        ("POST /containers/x/stop", {}, {"service": "nginx"}),
        ("POST /containers/x/attach", {}, {"service": "mysql"}),
        ("POST /containers/x/attach", {}, {"service": "mysql", **TASK_LABEL}),
        ("DELETE /containers/x", {}, {"service": "nginx"}),
        ("DELETE /containers/x", {"link": "1"}, {"service": "canary"}),
        ("POST /containers/x/rename", {"name": "shop-stable-1-1"}, {"service": "canary"}),
        ("POST /containers/x/rename", {"name": "shop-train-1"}, {"service": None, **TASK_LABEL}),
        ("POST /containers/x/kill", {"signal": "KILL"}, {"service": "nginx"}),
        ("POST /containers/x/kill", {}, {"service": "nginx"}),
        ("POST /containers/x/kill", {"signal": "KILL"}, {"service": "nginx-spare"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "door"}),
        ("POST /containers/x/kill", {"signal": "HUP"}, {"service": "kafka"}),
    ],
)
def test_calls_on_other_containers_are_refused(call, query, kind):
    with pytest.raises(Refusal) as refusal:
        judged(call, query, **kind)
    assert refusal.value.status == 403


def test_secrets_of_other_services_are_not_shown():
    assert b"s3cret" not in gate.shown(gate.container_of(container("mysql")))
    assert gate.shown(gate.container_of(container("canary"))) is None


def test_a_listing_is_narrowed_to_the_project():
    for asked in ({}, {"filters": '{"label": ["a=b"]}'}, {"filters": '{"label": {"a=b": true}}'}):
        labels = json.loads(gate.narrowed(asked, POLICY)["filters"])["label"]
        assert labels == [f"{gate.PROJECT}=shop", *(["a=b"] if asked else [])]


def test_a_build_gets_no_network():
    query = {"t": "marquee-serving:v8", "rm": "True", "pull": "False"}
    assert gate.judge_build(query, POLICY) == {**query, "networkmode": "none"}


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"t": "marquee-airflow"},
        {"t": "marquee-serving:runtime"},
        {"t": "marquee-serving:v8", "networkmode": "host"},
        {"t": "marquee-serving:v8", "networkmode": "container:shop-gate-1"},
        {"t": "marquee-serving:v8", "pull": "1"},
        {"t": "marquee-serving:v8", "dockerfile": "../../etc/passwd"},
    ],
)
def test_other_builds_are_refused(query):
    with pytest.raises(Refusal):
        gate.judge_build(query, POLICY)


CALLS_REFUSED = [
    "GET /info",
    "POST /containers/x/exec",
    "POST /exec/x/start",
    "GET /containers/x/archive?path=/",
    "PUT /containers/x/archive?path=/",
    "GET /containers/x/export",
    "POST /containers/x/update",
    "POST /containers/prune",
    "POST /images/create?fromImage=mysql",
    "POST /images/load",
    "GET /images/mysql:9/get",
    "POST /commit?container=x",
    "POST /volumes/create",
    "DELETE /volumes/shop_mysql",
    "GET /networks",
    "POST /networks/shop_marquee/connect",
    "POST /session",
    "POST /grpc",
    "POST /swarm/init",
    "POST /plugins/pull",
    "GET /v1.24/version",
    "POST /build?t=marquee-serving:v8&remote=http://192.0.2.1/x",
    "POST /build?t=marquee-serving:v8&version=2",
    "POST /build?t=marquee-serving:v8&extrahosts=mysql:192.0.2.1",
    "POST /containers/x/attach?stdin=1",
    "POST /containers/create/start/json",
]


@pytest.mark.parametrize("call", CALLS_REFUSED)
def test_what_no_rule_names_is_refused(call):
    with pytest.raises(Refusal) as refusal:
        gate.rule_of(gate.parse_head(f"{call} HTTP/1.1\r\nHost: gate\r\n\r\n".encode()))
    assert refusal.value.status == 403


HEADS_REFUSED = {
    "two lengths": b"POST /build HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
    "the same length twice": b"POST /build HTTP/1.1\r\nContent-Length: 4\r\ncontent-length: 4\r\n\r\n",
    "lengths in a list": b"POST /build HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\n",
    "length with a sign": b"POST /build HTTP/1.1\r\nContent-Length: +4\r\n\r\n",
    "length in hexadecimal": b"POST /build HTTP/1.1\r\nContent-Length: 0x4\r\n\r\n",
    "length of nothing": b"POST /build HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "length and chunks": b"POST /build HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    "another coding": b"POST /build HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "coding in capitals": b"POST /build HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "space before the colon": b"POST /build HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n",
    "folded line": b"POST /build HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
    "bare line feed": b"POST /build HTTP/1.1\nContent-Length: 4\r\n\r\n",
    "bare line feed in a header": b"GET /_ping HTTP/1.1\r\nA: b\nTransfer-Encoding: chunked\r\n\r\n",
    "bare carriage return": b"GET /_ping HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "nul": b"GET /_ping HTTP/1.1\r\nA: b\x00\r\n\r\n",
    "not ASCII": "GET /_ping HTTP/1.1\r\nA: ä\r\n\r\n".encode(),
    "absolute address": b"GET http://docker/_ping HTTP/1.1\r\n\r\n",
    "no path": b"GET * HTTP/1.1\r\n\r\n",
    "encoded slash": b"POST /containers/x%2Fexec HTTP/1.1\r\n\r\n",
    "encoded letter": b"POST /containers/x/%73tart HTTP/1.1\r\n\r\n",
    "way up": b"POST /containers/../build HTTP/1.1\r\n\r\n",
    "way up at the end": b"GET /images/x/.. HTTP/1.1\r\n\r\n",
    "slash at the end": b"POST /containers/x/kill/ HTTP/1.1\r\n\r\n",
    "two slashes": b"GET //_ping HTTP/1.1\r\n\r\n",
    "parameters of a path": b"GET /_ping;a=b HTTP/1.1\r\n\r\n",
    "fragment": b"GET /_ping#x HTTP/1.1\r\n\r\n",
    "parameter twice": b"POST /build?t=marquee-serving:v8&t=mysql HTTP/1.1\r\n\r\n",
    "parameter without value": b"POST /build?remote HTTP/1.1\r\n\r\n",
    "two spaces": b"GET  /_ping HTTP/1.1\r\n\r\n",
    "tabulator": b"GET\t/_ping HTTP/1.1\r\n\r\n",
    "older HTTP": b"GET /_ping HTTP/1.0\r\n\r\n",
    "newer HTTP": b"PRI * HTTP/2.0\r\n\r\n",
    "method in small letters": b"get /_ping HTTP/1.1\r\n\r\n",
    "nothing": b"\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS_REFUSED.values(), ids=HEADS_REFUSED)
def test_a_head_with_two_readings_is_refused(head):
    with pytest.raises(Refusal) as refusal:
        gate.parse_head(head)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "head",
    [
        b"POST /containers/x/start HTTP/1.1\r\nContent-Length: 2\r\n\r\n",
        b"POST /containers/x/start HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
        b"POST /containers/x/attach HTTP/1.1\r\nUpgrade: h2c\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n",
    ],
)
def test_what_a_call_does_not_need_is_refused(head):
    with pytest.raises(Refusal):
        gate.rule_of(gate.parse_head(head))


class Reading:
    """What another parser makes of a request."""

    def __init__(self, sent):
        self.urls, self.ends = [], 0
        parser = httptools.HttpRequestParser(self)
        with suppress(httptools.HttpParserUpgrade):  # of an attachment: nothing of HTTP follows
            parser.feed_data(sent)
        self.method = parser.get_method()

    def on_url(self, url):
        self.urls.append(url)

    def on_message_complete(self):
        self.ends += 1


texts = st.text(st.characters(codec="latin-1"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "get", "DELETE"]),
    st.lists(
        st.sampled_from(["containers", "x", "..", "json", "build", "v1.41", "", "%2e"]),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.sampled_from(["t", "a"]) | texts, texts), max_size=2),
    st.lists(
        st.tuples(
            st.sampled_from(["Content-Length", "Transfer-Encoding", "Upgrade", "Host"]) | texts,
            texts | st.just("0"),
        ),
        max_size=3,
    ),
)
def test_docker_reads_one_request_and_the_same_as_the_gate(method, parts, query, headers):
    target = f"/{'/'.join(parts)}?{'&'.join('='.join(pair) for pair in query)}"
    lines = [f"{method} {target} HTTP/1.1", *(": ".join(pair) for pair in headers), "", ""]
    try:
        understood = gate.parse_head("\r\n".join(lines).encode())
    except Refusal:
        return
    if understood.length != 0:
        return
    sent = gate._head_for_docker(understood, gate.Passed(understood.path, understood.query))
    reading = Reading(sent)
    assert (reading.ends, reading.method.decode()) == (1, understood.method)
    path, _, rest = reading.urls[0].decode().partition("?")
    assert path == understood.path
    assert dict(parse_qsl(rest, keep_blank_values=True)) == understood.query


# --- over the wire --------------------------------------------------------------------------------


class Docker:
    """Remembers what it was sent, knows one container, and answers everything with 200."""

    def __init__(self):
        self.requests = []

    async def answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b" HTTP/1.0" in head:
            body = json.dumps(container()).encode()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        else:
            self.requests.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            while b"build" in head and (piece := await reader.readline()):
                self.requests.append(piece)
                if piece == b"0\r\n":
                    break
            # What a smuggler hopes for: a server that reads on.
            with_more = asyncio.wait_for(reader.read(1000), 0.05)
            with suppress(TimeoutError):
                self.requests.append(await with_more)
            writer.write(b"2\r\nOK\r\n0\r\n\r\n")
        writer.close()


@asynccontextmanager
async def gate_before(docker, folder):
    path = str(folder / "docker.sock")
    server = await asyncio.start_unix_server(docker.answer, path)
    guard = await Gate(POLICY, path).serve("127.0.0.1", 0)
    async with server, guard:
        yield guard.sockets[0].getsockname()[1]


async def said(port, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


STOP = b"POST /v1.41/containers/shop-canary-1/stop?t=3 HTTP/1.1\r\nHost: gate\r\nContent-Length: 0\r\n\r\n"
SMUGGLED = b"POST /v1.41/containers/shop-mysql-1/stop HTTP/1.1\r\nHost: docker\r\n\r\n"
UPGRADE = b"POST /containers/x/attach?stream=1 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
CHUNKS = b"POST /build?t=marquee-serving:v8 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def over_the_wire(folder, sent):
    docker = Docker()

    async def story():
        async with gate_before(docker, folder) as port:
            return await said(port, sent)

    return asyncio.run(story()), docker.requests


def test_a_call_passes_once_by_the_id_of_the_container(tmp_path):
    answer, requests = over_the_wire(tmp_path, STOP)
    assert answer.endswith(b"2\r\nOK\r\n0\r\n\r\n")
    wanted = f"POST /v1.41/containers/{ID}/stop?t=3 HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n"
    assert requests[0] == wanted.encode() + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize("before", [STOP, b"GET /_ping HTTP/1.1\r\n\r\n", CHUNKS + b"0\r\n\r\n"])
def test_a_second_request_never_reaches_docker(tmp_path, before):
    _, requests = over_the_wire(tmp_path, before + SMUGGLED)
    assert b"mysql" not in b"".join(requests)
    assert requests


def test_chunks_arrive_as_they_were_meant(tmp_path):
    _, requests = over_the_wire(tmp_path, CHUNKS + b"00a\r\n012345678\n\r\n0\r\n\r\n")
    assert requests[1:] == [b"a\r\n", b"012345678\n", b"\r\n", b"0\r\n", b"\r\n"]


@pytest.mark.parametrize(
    "chunks",
    [
        b"4;a=b\r\n0123\r\n0\r\n\r\n",
        b"0x4\r\n0123\r\n0\r\n\r\n",
        b"-4\r\n0123\r\n0\r\n\r\n",
        b"4\n0123\r\n0\r\n\r\n",
        b"4\r\n01234\r\n0\r\n\r\n",
        b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"fffffffff\r\n0123",
    ],
)
def test_tricks_with_chunks_end_the_request(tmp_path, chunks):
    _, requests = over_the_wire(tmp_path, CHUNKS + chunks + SMUGGLED)
    assert b"mysql" not in b"".join(requests)
    # Never ended: Docker builds nothing.
    assert not requests or not b"".join(requests).endswith(b"0\r\n\r\n")


def test_an_upgrade_that_docker_refuses_is_told_and_ends(tmp_path):
    answer, _ = over_the_wire(tmp_path, UPGRADE + SMUGGLED)
    assert b"Connection: close" in answer
    assert b"mysql" not in b"".join(_)


def test_without_docker_the_answer_is_502(tmp_path):
    async def story():
        guard = await Gate(POLICY, str(tmp_path / "none")).serve("127.0.0.1", 0)
        async with guard:
            return await said(guard.sockets[0].getsockname()[1], b"GET /_ping HTTP/1.1\r\n\r\n")

    assert asyncio.run(story()).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


@pytest.mark.parametrize("bound", ["MOST_CONNECTIONS", "LARGEST_HEAD_BYTES", "HEAD_TIMEOUT_S"])
def test_bounds_hold(tmp_path, monkeypatch, bound):
    sent, status = {
        "MOST_CONNECTIONS": (STOP, 503),
        "LARGEST_HEAD_BYTES": (b"GET /_ping HTTP/1.1\r\nA: " + b"a" * 100 + b"\r\n\r\n", 431),
        "HEAD_TIMEOUT_S": (b"GET /_ping HTTP/1.1\r\n", 408),
    }[bound]
    monkeypatch.setattr(gate, bound, {"LARGEST_HEAD_BYTES": 64}.get(bound, 0))
    answer, requests = over_the_wire(tmp_path, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert requests == []


def test_a_refusal_is_logged_without_what_was_sent_in_the_body(tmp_path, capsys):
    body = json.dumps(deepcopy(description(Privileged=True)) | {"Env": ["PASSWORD=s3cret"]}).encode()
    head = f"POST /containers/create?name=shop-canary-1 HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    answer, requests = over_the_wire(tmp_path, head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert "HostConfig.Privileged" in json.loads(answer.partition(b"\r\n\r\n")[2])["message"]
    assert requests == []
    logged = capsys.readouterr().out
    assert logged.count("\n") == 1
    assert "HostConfig.Privileged" in logged
    assert "s3cret" not in logged


def test_a_gate_of_no_project_does_not_start():
    with pytest.raises(SystemExit, match="MARQUEE_COMPOSE_PROJECT=''"):
        gate.policy_of({})
