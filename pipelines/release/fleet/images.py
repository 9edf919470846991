"""Images of replicas: the runtime and one version's model."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from docker import APIClient
from docker.errors import APIError, ImageNotFound

from pipelines.errors import FleetError
from pipelines.release.fleet.place import Inspected

KEEP = 10
"""Images of the newest versions that stay, beside those in use; an older one is built again when wanted."""

_MODEL = "marquee.model"
_TIMEOUT_S = 600


class Images:
    """The images ``<repository>:vN``, one a version, made of ``<repository>:runtime``."""

    def __init__(self, docker: APIClient, repository: str, models_dir: Path) -> None:
        """Build through ``docker`` from the artifacts in ``models_dir/vN``."""
        self._docker = docker
        self._repository = repository
        self._models_dir = models_dir

    def tag(self, version: int) -> str:
        """Return the name of a version's image."""
        return f"{self._repository}:v{version}"

    def pack(self, version: int) -> str:
        """Build the image of ``version`` when there is none of its model; return the image's id.

        Raises:
            FleetError: there is no such model here, or Docker cannot build it.
        """
        model_dir = self._models_dir / f"v{version}"
        found = self._find(version)
        try:
            # It names the hash of every array, so this is a hash of everything.
            model = hashlib.sha256((model_dir / "model.json").read_bytes()).hexdigest()
        except OSError:
            if found:
                return str(found["Id"])
            raise FleetError(
                f"there is no model in {model_dir} and no image {self.tag(version)}; "
                f"fetch it with `python -m pipelines fetch {version}`"
            ) from None
        if found is None or (found["Config"]["Labels"] or {}).get(_MODEL) != model:
            self._build(version, model_dir, model)
            self._forget_old(version)
            found = self._docker.inspect_image(self.tag(version))
        return str(found["Id"])

    def _find(self, version: int) -> Inspected | None:
        try:
            found: Inspected = self._docker.inspect_image(self.tag(version))
        except ImageNotFound:
            return None
        return found

    def _build(self, version: int, model_dir: Path, model: str) -> None:
        labels = {
            "org.opencontainers.image.version": f"v{version}",
            "marquee.version": str(version),
            _MODEL: model,
        }
        runtime = f"{self._repository}:runtime"
        with _context(f"FROM {runtime}\n", model_dir) as context:
            said = self._docker.build(
                fileobj=context,
                custom_context=True,
                tag=self.tag(version),
                labels=labels,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=_TIMEOUT_S,
            )
            errors = [line["error"] for line in said if "error" in line]
        if errors:
            raise FleetError(
                f"Docker could not build {self.tag(version)}: {errors[-1]}; is there an image {runtime}? "
                "make it with `docker compose build serving-image`"
            )

    def _forget_old(self, wanted: int) -> None:
        listed = self._docker.images(name=self._repository)
        tags = {tag for image in listed for tag in image["RepoTags"] or ()}
        numbers = [tag.removeprefix(f"{self._repository}:v") for tag in tags]
        versions = {int(each) for each in numbers if each.isdecimal()} - {wanted}
        for number in sorted(versions, reverse=True)[KEEP - 1 :]:
            try:
                self._docker.remove_image(self.tag(number))
            except APIError as error:
                # A replica is made of it.
                if error.status_code not in (404, 409):
                    raise


@contextmanager
def _context(dockerfile: str, model_dir: Path) -> Iterator[IO[bytes]]:
    """Yield what Docker builds from; on the disk of the models, for it may not fit into memory."""
    with TemporaryFile(dir=model_dir.parent) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            line = tarfile.TarInfo("Dockerfile")
            line.size = len(dockerfile)
            archive.addfile(line, io.BytesIO(dockerfile.encode()))
            archive.add(model_dir, "model", filter=_readable)
        file.seek(0)
        yield file


def _readable(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make everybody a reader, whoever has exported the model and under whatever mask."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o755 if info.isdir() else 0o644
    return info
