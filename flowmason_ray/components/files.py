"""Files that components may touch: only those inside the project's directory, and written whole or not at all.

A path from a pipeline is relative to the project. `..`, absolute paths and symbolic links are followed first and judged
by where they lead; what leads outside is refused before anything is opened. What the project executes or trusts is only read.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from flowmason_ray.components.protected import refuse_protected
from flowmason_ray.errors import PermanentError, nearest

T = TypeVar("T")
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp", re.DOTALL)
"""Names that `mkstemp` gives with the prefix and suffix of `_beside`."""


def resolve_inside(project_dir: Path, path: str, *, reading: bool = False) -> Path:
    """Return the absolute path that `path` means, with links followed.

    Args:
        project_dir: The project's directory.
        path: Relative to it, or absolute.
        reading: Whether nothing is going to be changed there; else what the project executes or trusts is refused.

    Raises:
        PermanentError: `path_outside_project`, `path_protected`, or `invalid_path` for one that no file can have.
    """
    if not path or "\0" in path:
        raise PermanentError(f"The path {path!r} is empty or holds a NUL character.", code="invalid_path")
    root = project_dir.resolve()
    try:
        found = (root / path).resolve()
    except (OSError, RuntimeError) as exc:  # a loop of links
        raise PermanentError(f"The path {path!r} cannot be followed: {exc}.", code="invalid_path") from exc
    if not found.is_relative_to(root):
        raise PermanentError(
            f"The path {path!r} leads outside the project's directory. Use a path below it; links that leave it do not count.",
            code="path_outside_project",
        )
    if not reading:
        refuse_protected(root, found, path)
    return found


def relative(project_dir: Path, file: Path) -> str:
    """Return `file` as pipelines write it: relative to the project, with forward slashes."""
    return file.relative_to(project_dir.resolve()).as_posix()


def existing_file(project_dir: Path, path: str) -> Path:
    """Return the file that `path` means, to be read.

    Raises:
        PermanentError: it is outside, missing (`file_not_found`, with the nearest name beside it) or a directory.
    """
    file = resolve_inside(project_dir, path, reading=True)
    if file.is_dir():
        raise PermanentError(f"{path!r} is a directory, not a file.", code="is_a_directory")
    if not file.exists():
        raise PermanentError(f"There is no file {path!r} in the project.{_like(file)}", code="file_not_found")
    return file


def _like(file: Path) -> str:
    if not file.parent.is_dir():
        return f" Its directory {file.parent.name!r} does not exist either."
    near = nearest(file.name, (p.name for p in file.parent.iterdir()))
    return f" Did you mean {near!r}?" if near else ""


@contextmanager
def file_errors(path: str) -> Generator[None]:
    """Turn what the operating system says about `path` into a `PermanentError` (`file_error`)."""
    try:
        yield
    except OSError as exc:
        raise PermanentError(f"File {path!r}: {exc.strerror or exc}.", code="file_error") from exc


def write_atomic(file: Path, write: Callable[[Path], None]) -> int:
    """Let `write` fill a temporary file beside `file`, then put it in place: readers see the old content or the new.

    Missing directories are made. After a failure `file` is as it was and no temporary file is left.

    Returns: the size in bytes.
    """
    with _beside(file) as temporary:
        write(temporary)
        size = _put_in_place(temporary, file)
    return size


async def write_atomic_async(file: Path, write: Callable[[Path], Awaitable[T]]) -> tuple[int, T]:
    """Do the same with a `write` that waits.

    Returns: the size in bytes, and what `write` returned.
    """
    with _beside(file) as temporary:
        returned = await write(temporary)
        size = _put_in_place(temporary, file)
    return size, returned


@contextmanager
def _beside(file: Path) -> Generator[Path]:
    """Make a temporary file beside `file`; in the end it is gone, unless it was put in place."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        # mkstemp makes files that only their owner may read; a result is an ordinary file.
        os.fchmod(handle, _mode(file))
        os.close(handle)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(file: Path) -> bool:
    """Tell whether a file is one that `write_atomic` is filling, or that a crash has left."""
    return _TEMPORARY.fullmatch(file.name) is not None


def _put_in_place(temporary: Path, file: Path) -> int:
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    size = temporary.stat().st_size
    temporary.replace(file)
    return size


def _mode(file: Path) -> int:
    try:
        return file.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
