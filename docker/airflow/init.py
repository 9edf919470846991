"""What has to be there before Airflow starts: a database of today's schema, and the password of its user.

Runs once at every ``docker compose up``; a second run changes nothing but a password that has changed.
"""

import json
import os
import subprocess
from pathlib import Path


def main() -> None:
    """Prepare; what is wrong ends the service, and with it ``docker compose up``."""
    keep_password(Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]))
    subprocess.run(["airflow", "db", "migrate"], check=True)


def keep_password(path: Path) -> None:
    """Put the password where Airflow's own user management reads it; only its owner may."""
    user = os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"].partition(":")[0]
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(json.dumps({user: os.environ["MARQUEE_AIRFLOW_PASSWORD"]}) + "\n")
    new.replace(path)


if __name__ == "__main__":
    main()
