"""Asking git: one function that runs it, and what the commands want to know of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from flowmason_ray.errors import InvalidCall


def git(*arguments: str, cwd: Path | str | None = None) -> bytes:
    """Run git and return what it prints.

    Raises:
        InvalidCall: there is no git, or it refuses; with its own words.
    """
    done = try_git(*arguments, cwd=cwd)
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip() or f"it exits with {done.returncode}"
        raise InvalidCall(f"git {arguments[0]}: {words}")
    return done.stdout


def try_git(*arguments: str, cwd: Path | str | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run git and return how it ended.

    Raises:
        InvalidCall: there is no git.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise InvalidCall("There is no 'git' on the path.") from None


def top_level(cwd: Path | str | None = None) -> Path:
    """Return the directory of the work tree.

    Raises:
        InvalidCall: this is none.
    """
    return Path(git("rev-parse", "--show-toplevel", cwd=cwd).decode().rstrip("\n"))


def is_revision(text: str) -> bool:
    """Tell whether a text names a commit here."""
    return (
        not text.startswith("-") and try_git("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}").returncode == 0
    )


def content_at(revision: str, path: str, root: Path) -> bytes:
    """Return a file as it is in a commit; `revision` "" is the index.

    Raises:
        InvalidCall: it is not there.
    """
    return git("show", f"{revision}:{path}", cwd=root)
