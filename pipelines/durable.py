"""What was written stays written, also when the power fails."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk.

    Raises:
        OSError: the disk does not take it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
