"""Git and DVC as commands in one folder: set up, called, and their errors translated without secrets."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.errors import RegistryError

BRANCH = "main"
_REFS = (f"refs/heads/{BRANCH}", "refs/tags/v*", "refs/tags/release-*", "refs/notes/*")
_TIMEOUT_S = 3_600.0
"""Longest one command may take; a first push moves all data."""

# What `dvc init` would write, without waiting a second for it and safe to be killed in between.
_SCAFFOLD = {
    ".gitignore": "/.lock\n/batches\n/model\n",
    ".dvcignore": "",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvc/config": "[core]\n    analytics = false\n    check_update = false\n"
    '[cache]\n    type = "reflink,hardlink,copy"\n',
}

# The repository answers to its own configuration only: no hooks, signatures or ignore rules of a person.
_GIT_CONFIG = {
    "user.name": "Marquee",
    "user.email": "marquee@localhost",
    "commit.gpgsign": "false",
    "tag.gpgsign": "false",
    "push.gpgsign": "false",
    "core.hooksPath": os.devnull,
    "core.excludesFile": os.devnull,
    "core.autocrlf": "false",
    "gc.autoDetach": "false",
}
_FOREIGN_GIT = re.compile(
    "GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|COMMON_DIR|NAMESPACE|PREFIX|AUTHOR_.*|COMMITTER_.*)"
)


class Repository:
    """A folder that is a git repository with DVC inside. Nothing here locks: that is the caller's."""

    def __init__(self, folder: Path, git_remote: str = "", dvc_remote: str = "") -> None:
        self.folder = folder.absolute()
        self._git_remote = _absolute(git_remote)
        self._dvc_remote = _absolute(dvc_remote)

    @property
    def exists(self) -> bool:
        """Whether the folder has been set up at all."""
        return (self.folder / ".git" / "HEAD").is_file()

    @property
    def has_remote(self) -> bool:
        """Whether anything is to be pushed anywhere."""
        return bool(self._git_remote or self._dvc_remote)

    def set_up(self) -> None:
        """Bring folder, configuration and remotes into being, or up to date; may run any number of times."""
        self._remove_stale_locks()
        self.git("init", "--quiet", f"--initial-branch={BRANCH}", "--template=")
        for key, value in _GIT_CONFIG.items():
            self.git("config", key, value)
        (self.folder / ".dvc").mkdir(exist_ok=True)
        for name, text in _SCAFFOLD.items():
            if not (self.folder / name).exists():
                (self.folder / name).write_text(text)
        self._point_at_remotes()

    def git(self, *arguments: str, feed: str = "") -> str:
        """Run git here and return its standard output.

        Raises:
            RegistryError: git refused, or is not there.
        """
        # Named explicitly: git would otherwise go looking in the folders above.
        place = (f"--git-dir={self.folder / '.git'}", f"--work-tree={self.folder}")
        return self._run(["git", *place, *arguments], shown=f"git {arguments[0]}", feed=feed)

    def dvc(self, *arguments: str) -> str:
        """Run DVC here and return its standard output; a call costs a second or two.

        Raises:
            RegistryError: DVC refused.
        """
        return self._run([sys.executable, "-m", "dvc", *arguments], shown=f"dvc {arguments[0]}")

    def push(self) -> None:
        """Push data, branch, tags and notes to the remotes that are set; data first, for what points to it.

        Raises:
            RegistryError: a remote is away or refuses; nothing local is lost.
        """
        if self._dvc_remote:
            self.dvc("push", "--all-tags")
        if self._git_remote:
            self.git("push", "--quiet", "origin", *(f"{ref}:{ref}" for ref in _REFS))

    def fetch(self) -> None:
        """Take branch, tags and notes over from the git remote; for a folder that has none of its own.

        Raises:
            RegistryError: there is no remote, it is away, or it is empty.
        """
        self.git("fetch", "--quiet", "--update-head-ok", "origin", *(f"{ref}:{ref}" for ref in _REFS))
        self.git("reset", "--quiet", "--hard")

    def _point_at_remotes(self) -> None:
        known = "origin" in self.git("remote").split()
        if self._git_remote:
            self.git("remote", "set-url" if known else "add", "origin", self._git_remote)
        elif known:
            self.git("remote", "remove", "origin")
        # Not committed: an address may carry a password.
        local = self.folder / ".dvc" / "config.local"
        if self._dvc_remote:
            local.write_text(
                f'[core]\n    remote = data\n[\'remote "data"\']\n    url = "{self._dvc_remote}"\n'
            )
        else:
            local.unlink(missing_ok=True)

    def _remove_stale_locks(self) -> None:
        """Remove what a killed git or DVC left behind; the caller's lock says that none is at work here."""
        git_dir = self.folder / ".git"
        for lock in (*git_dir.glob("*.lock"), *git_dir.glob("refs/**/*.lock")):
            lock.unlink(missing_ok=True)
        # It names processes by pid, and in a container the pids of the dead come back.
        (self.folder / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)

    def _run(self, command: list[str], *, shown: str, feed: str = "") -> str:
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self._environment(),
                input=feed,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RegistryError(f"`{shown}` in {self.folder} took longer than {_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise RegistryError(
                f"`{shown}` cannot be run in {self.folder}: {error}; install {command[0]}"
            ) from error
        if done.returncode:
            raise RegistryError(f"`{shown}` failed in {self.folder}: {self._mask(_last_words(done.stderr))}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not _FOREIGN_GIT.fullmatch(key)}
        return inherited | {
            "LC_ALL": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "DVC_NO_ANALYTICS": "1",
            # DVC's default is one folder for all users of the machine.
            "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc" / "tmp" / "site"),
        }

    def _mask(self, text: str) -> str:
        text = re.sub(r"://[^/\s]*@", "://***@", text)
        for remote in (self._git_remote, self._dvc_remote):
            password = urlsplit(remote).password if "://" in remote else None
            text = text.replace(password, "***") if password else text
        return text


def _absolute(remote: str) -> str:
    """Make a path absolute, since git and DVC run in the registry; URLs and ``host:path`` stay."""
    if not remote or re.match(r"[^/]+:", remote):
        return remote
    return str(Path(remote).expanduser().absolute())


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and "dvc.org/support" not in line]
    return " | ".join(dict.fromkeys(lines[-5:]))[-800:] or "no reason was given"
