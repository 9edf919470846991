"""Whether somebody writes a file, also somebody whose process cannot be seen from here."""

import fcntl
from pathlib import Path


def has_writer(path: Path) -> bool:
    """Return whether anybody has the file open for writing, in this container or in another; in doubt, yes.

    A process id would not tell: in another container it is another process's, or nobody's. In doubt is who
    is not the owner of the file, or has it on a file system without leases.
    """
    try:
        with path.open("rb") as file:
            # The kernel grants a read lease only on a file that nobody has open for writing.
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False
