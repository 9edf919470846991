"""What tests of the gate have in common: whose it is, and what it is asked for and told."""

import io
import tarfile

from gate.policy import PROJECT, SERVICE, TASK, Policy

POLICY = Policy("shop")
ID = "9f" * 32


def container(service="canary", *, project="shop", **labels):
    """What Docker says of a container."""
    labels = {PROJECT: project, **({SERVICE: service} if service else {}), **labels}
    config = {"Labels": labels, "Env": ["PASSWORD=s3cret"]}
    return {"Id": ID, "Name": f"/{project}-{service}-1", "Config": config}


def replica_body(**host):
    """A replica as the fleet makes it anew: what Docker says of one that compose has made."""
    return {
        "Domainname": "",
        "User": "10001:10001",
        "AttachStdin": False,
        "AttachStdout": True,
        "Env": ["MARQUEE_ARM=canary"],
        "Cmd": None,
        "Image": "marquee-serving:v8",
        "Volumes": None,
        "Labels": {PROJECT: "shop", SERVICE: "canary", "marquee.version": "8"},
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


def training_body(**host):
    """A training as Airflow's DockerOperator makes it."""
    return {
        "User": "10001:10001",
        "Image": "marquee-airflow",
        "Cmd": ["python", "-m", "pipelines", "train"],
        "Labels": {PROJECT: "shop", TASK: "train"},
        "HostConfig": {
            "Mounts": [{"Target": "/var/lib/marquee", "Source": "shop_state", "Type": "volume"}],
            "NetworkMode": "shop_marquee",
            "Memory": 4 * 2**30,
            "CpuShares": 1024,
            "LogConfig": {"Type": None, "Config": {"max-size": "10m"}},
            **host,
        },
    }


def archive(*entries, format=tarfile.USTAR_FORMAT):
    """A context: name and content of each file; of no content, a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mtime = 1_700_000_000.5
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            tar.addfile(info, io.BytesIO(content or b""))
    return file.getvalue()


DOCKERFILE = ("Dockerfile", b"FROM marquee-serving:runtime\n")
MODEL = (("model", None), ("model/model.json", b"{}"), ("model/seen.npy", bytes(1500)))
