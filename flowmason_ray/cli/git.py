"""Asking git: one function that runs it, and what the commands want to know of it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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


def try_git(*arguments: str, cwd: Path | str | None = None, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run git, with `given` on its stdin, and return how it ended.

    Raises:
        InvalidCall: there is no git.
    """
    try:
        return subprocess.run(
            ["git", *arguments], cwd=cwd, input=given, capture_output=True, env=_environment(), check=False
        )
    except FileNotFoundError:
        raise InvalidCall("There is no 'git' on the path.") from None


def _environment() -> dict[str, str]:
    return {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of a commit."""

    path: str
    """Relative to the repository, with `/`."""
    blob: str
    """The name of its content."""
    size_bytes: int


def files_at(revision: str, root: Path) -> Iterator[Entry]:
    """Yield the files of a commit; a link as the file that it leads to, if that is in the commit.

    Raises:
        InvalidCall: there is no such commit.
    """
    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}", cwd=root).decode().strip()
    listed = git("ls-tree", "-r", "-l", "-z", "--full-tree", commit, cwd=root)
    links: list[str] = []
    for line in listed.split(b"\0"):
        facts, tab, path = line.partition(b"\t")
        if tab and facts.startswith(b"100"):
            _, _, blob, size = facts.split()
            yield Entry(path=os.fsdecode(path), blob=blob.decode(), size_bytes=int(size))
        elif tab and facts.startswith(b"120") and b"\n" not in path:
            links.append(os.fsdecode(path))
    for path in links:  # few; the answers about several cannot be told apart when a path holds a blank
        asked = os.fsencode(f"{commit}:{path}\n")
        answer = try_git("cat-file", "--batch-check", "--follow-symlinks", cwd=root, given=asked).stdout.split()
        if len(answer) == 3 and answer[1] == b"blob":
            yield Entry(path=path, blob=answer[0].decode(), size_bytes=int(answer[2]))


def write_blobs(wanted: Iterable[tuple[str, Path]], root: Path) -> None:
    """Write contents into files, by one git for all of them.

    Args:
        wanted: The name of each content, and the file to make of it.
        root: The directory of the work tree.

    Raises:
        InvalidCall: git cannot read one.
    """
    listed = list(wanted)
    with tempfile.TemporaryFile() as names:  # a pipe would fill up while git waits for us to read
        names.write("".join(f"{blob}\n" for blob, _ in listed).encode())
        names.seek(0)
        command = ["git", "cat-file", "--batch"]
        with subprocess.Popen(command, cwd=root, stdin=names, stdout=subprocess.PIPE, env=_environment()) as process:
            assert process.stdout is not None
            for blob, file in listed:
                answer = process.stdout.readline().split()
                if len(answer) != 3:
                    process.kill()
                    raise InvalidCall(f"git cannot read the object {blob!r}; 'git fsck' tells more.")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(process.stdout.read(int(answer[2])))
                process.stdout.read(1)


def content_at(revision: str, path: str, root: Path) -> bytes:
    """Return a file as it is in a commit; `revision` "" is the index.

    Raises:
        InvalidCall: it is not there.
    """
    return git("show", f"{revision}:{path}", cwd=root)
