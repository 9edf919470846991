"""The replica as gunicorn starts it.

``gunicorn -c serving/gunicorn.conf.py`` reads, beside what ``gunicorn.conf.py`` names:

| variable            | what it says                                                      |
|---------------------|-------------------------------------------------------------------|
| MARQUEE_MODEL_DIR   | folder of the artifact to serve                                   |
| MARQUEE_ARM         | ``stable``, ``canary`` or ``shadow``                              |
| MARQUEE_REPLICA     | name of this replica, up to 64 of ``A-Z a-z 0-9 . _ -``           |
| MARQUEE_SPOOL_DIR   | folder that receipts are appended to                              |
| MARQUEE_RECENTS_DIR | folder of what users watched since the training; empty: not known |
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from pipelines.errors import SettingsError
from pipelines.model.artifact import load
from pipelines.recents import Recents
from serving.app import create_app
from serving.receipts import Spool


def create_app_from_env(environ: Mapping[str, str] = os.environ) -> Flask:
    """Build the replica that the environment describes.

    Raises:
        SettingsError: a variable is missing or malformed.
        ModelError: the folder holds no readable model.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    arm = _variable(environ, "MARQUEE_ARM", "stable|canary|shadow")
    replica = _variable(environ, "MARQUEE_REPLICA", "[A-Za-z0-9._-]{1,64}")
    spool_dir = Path(_variable(environ, "MARQUEE_SPOOL_DIR", ".+"))
    recents_dir = environ.get("MARQUEE_RECENTS_DIR")
    model = load(Path(_variable(environ, "MARQUEE_MODEL_DIR", ".+")))
    # A model fresh from training has no number yet; trying it out is allowed.
    version = model.version or 0
    return create_app(
        model,
        version=version,
        arm=arm,
        replica=replica,
        receipts=Spool(spool_dir, replica),
        recents=Recents(Path(recents_dir)) if recents_dir else None,
    )


def _variable(environ: Mapping[str, str], name: str, pattern: str) -> str:
    value = environ.get(name, "")
    if not re.fullmatch(pattern, value):
        raise SettingsError(f"{name}={value!r}: wanted {pattern}; see the table in serving/wsgi.py")
    return value
