"""The place of a replica: what compose says of its container, but for the program.

Compose makes a container that only keeps the place: with the limits, networks, volumes and labels of the
service. A release makes it anew with another program, and with everything else as it was. Compose takes it
for its own by its labels, ``com.docker.compose.config-hash`` and ``….image`` among them: `docker compose ps`,
`logs`, `restart` and `down` go on to work, and `up -d` leaves it alone until the service itself is changed.
"""

import json
from collections.abc import Mapping
from typing import Any

Inspected = Mapping[str, Any]
"""What Docker says of a container or an image."""
Body = dict[str, Any]
"""What Docker is told to make a container of."""

LABEL = "marquee.place"

# Of the container; the others of its fields are of its program.
_OF_THE_CONTAINER = ("Domainname", "Env", "Hostname", "Labels", "StopTimeout", "User")
_OF_THE_PROGRAM = ("Cmd", "Entrypoint", "Healthcheck", "Image", "StopSignal", "WorkingDir")


def place_of(container: Inspected, image: Inspected) -> Body:
    """Return what compose gave a container that keeps a place; ``image`` is what it was made of."""
    config, of_image = container["Config"], image["Config"]
    place: Body = {
        key: config[key]
        for key in (*_OF_THE_CONTAINER, *_OF_THE_PROGRAM)
        if config.get(key) and config[key] != of_image.get(key)
    }
    place["Env"] = [each for each in config["Env"] or () if each not in (of_image["Env"] or ())]
    labels = of_image["Labels"] or {}
    place["Labels"] = {key: value for key, value in config["Labels"].items() if labels.get(key) != value}
    if config.get("Hostname") == container["Id"][:12]:
        # Docker's own choice: of this one container.
        del place["Hostname"]
    return place


def kept_place(container: Inspected) -> Body | None:
    """Return the place that a replica remembers; None: this container only keeps it."""
    label = container["Config"]["Labels"].get(LABEL)
    return json.loads(label) if label else None


def body_of_placeholder(place: Body, beside: Inspected) -> Body:
    """Return what makes the container that keeps the place, as compose made it."""
    return place | _surroundings(beside)


def body_of_replica(
    place: Body, beside: Inspected, *, image: str, env: Mapping[str, str], labels: Mapping[str, str]
) -> Body:
    """Return what makes a replica of ``image`` beside another; ``env`` and ``labels`` come on top."""
    given = {key: place[key] for key in _OF_THE_CONTAINER if key in place}
    all_env = dict(each.split("=", 1) for each in place["Env"] if "=" in each) | dict(env)
    return (
        given
        | _surroundings(beside)
        | {
            "Image": image,
            "Env": [f"{key}={value}" for key, value in all_env.items()],
            "Labels": place["Labels"] | dict(labels) | {LABEL: json.dumps(place, sort_keys=True)},
        }
    )


def _surroundings(container: Inspected) -> Body:
    networks = container["NetworkSettings"]["Networks"]
    return {
        "HostConfig": container["HostConfig"],
        "NetworkingConfig": {
            "EndpointsConfig": {
                name: {
                    "Aliases": [alias for alias in network["Aliases"] or () if alias != container["Id"][:12]]
                }
                for name, network in networks.items()
            }
        },
    }
