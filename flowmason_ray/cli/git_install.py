"""What `fm git install` puts into place, and `fm git uninstall` takes away again, to the byte.

Three things: a section for the drivers in git's configuration, a block of lines in the attributes file, and hooks. A hook that
is there already is kept beside ours and run before it. Nothing that somebody else wrote is ever changed.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowmason_ray.cli.git import git, top_level, try_git
from flowmason_ray.errors import InvalidCall

DRIVER = "flowmason"
PATTERN = "*.pipeline.json"
HOOKS = ("pre-commit", "pre-merge-commit")
"""Commits, and merges that git commits by itself: an octopus merges by line, whatever the attributes say."""
KEPT = ".before-flowmason"
"""How a hook is called that was there before ours."""

CONFLICTS = 64
"""What the merge driver exits with when it has written conflicts; whatever else is not 0 leaves the merge to git."""

_BEGIN, _END = b"# >>> flowmason", b"# <<< flowmason"
_JOINED = b" (no line break before)"
_EMPTY = b" (in an empty file)"
_HOOK_MARK = "# flowmason: checks the pipelines that are committed ('fm git install')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What was done in one place, for people."""

    place: str
    what: Literal["written", "removed", "as it was", "left alone"]
    why: str = ""


def program() -> str:
    """Return the shell words that run this very `fm`, whatever the path and the working directory are."""
    # -P: a directory of the repository must not stand in for a module of Python.
    return f"{shlex.quote(sys.executable)} -P -m flowmason_ray"


def config_values() -> dict[str, str]:
    """Return what stands in git's configuration."""
    fm = program()
    # Only 0 and CONFLICTS are answers of the driver. A crash, a missing program, a side that is no pipeline: git's own merge.
    merge = (
        f"{fm} git merge-driver %O %A %B %P; "
        f"case $? in 0) exit 0;; {CONFLICTS}) exit 1;; esac; "
        "exec git merge-file --quiet --marker-size=%L -L ours -L base -L theirs %A %O %B"
    )
    return {
        f"diff.{DRIVER}.command": f"{fm} git diff-driver",
        f"diff.{DRIVER}.textconv": f"{fm} git textconv",
        f"merge.{DRIVER}.name": "FlowMason pipelines, merged by stage",
        f"merge.{DRIVER}.driver": merge,
        f"merge.{DRIVER}.recursive": "binary",
    }


def install(*, everywhere: bool) -> Iterator[Done]:
    """Put everything into place; what is there already is brought up to date.

    Args:
        everywhere: For all repositories of this user; else for the one around here.

    Raises:
        InvalidCall: this is no work tree, or something cannot be written.
    """
    root = None if everywhere else top_level()
    yield _install_config(everywhere=everywhere)
    yield _install_attributes(_attributes_file(root))
    yield from _each_hook(root, _install_hook)


def uninstall(*, everywhere: bool) -> Iterator[Done]:
    """Take away what `install` put there.

    Raises:
        InvalidCall: this is no work tree, or something cannot be written.
    """
    root = None if everywhere else top_level()
    yield _uninstall_config(everywhere=everywhere)
    yield _uninstall_attributes(_attributes_file(root))
    yield from _each_hook(root, _uninstall_hook)


# -- configuration -----------------------------------------------------------------------------------------------------


def _scope(*, everywhere: bool) -> str:
    return "--global" if everywhere else "--local"


def _install_config(*, everywhere: bool) -> Done:
    scope = _scope(everywhere=everywhere)
    changed = False
    for key, value in config_values().items():
        found = try_git("config", scope, "--get", key)
        if found.returncode != 0 or found.stdout.decode("utf-8", "replace").rstrip("\n") != value:
            git("config", scope, key, value)
            changed = True
    return Done(place=f"git config {scope}", what="written" if changed else "as it was")


def _uninstall_config(*, everywhere: bool) -> Done:
    scope = _scope(everywhere=everywhere)
    removed = [try_git("config", scope, "--remove-section", f"{part}.{DRIVER}") for part in ("diff", "merge")]
    done = any(each.returncode == 0 for each in removed)
    return Done(place=f"git config {scope}", what="removed" if done else "as it was")


# -- attributes --------------------------------------------------------------------------------------------------------


def _attributes_file(root: Path | None) -> Path:
    if root is not None:
        return root / ".gitattributes"
    told = try_git("config", "--global", "--path", "--get", "core.attributesFile").stdout.decode().rstrip("\n")
    if told:
        return Path(told)
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "git" / "attributes"


def _install_attributes(file: Path) -> Done:
    content = _read(file)
    if content is not None and _block_of(content) is not None:
        return Done(place=str(file), what="as it was")
    before = content or b""
    joined = bool(before) and not before.endswith(b"\n")
    note = _JOINED if joined else _EMPTY if content == b"" else b""
    line = f"{PATTERN} diff={DRIVER} merge={DRIVER}\n".encode()
    block = b"\n" * joined + _BEGIN + note + b"\n" + line + _END + b"\n"
    _write(file, before + block)
    return Done(place=str(file), what="written")


def _uninstall_attributes(file: Path) -> Done:
    content = _read(file)
    found = None if content is None else _block_of(content)
    if content is None or found is None:
        return Done(place=str(file), what="as it was")
    start, end = found
    note = content[start:].split(b"\n", 1)[0].removeprefix(_BEGIN)
    if note == _JOINED and content[start - 1 : start] == b"\n":
        start -= 1
    rest = content[:start] + content[end:]
    if rest or note == _EMPTY:
        _write(file, rest)
    else:
        file.unlink()
    return Done(place=str(file), what="removed")


def _block_of(content: bytes) -> tuple[int, int] | None:
    """Return where our lines begin and end."""
    start = 0 if content.startswith(_BEGIN) else content.find(b"\n" + _BEGIN) + 1
    if not content[start:].startswith(_BEGIN):
        return None
    end = content.find(_END, start)
    if end < 0:
        return None
    line_end = content.find(b"\n", end)
    return start, len(content) if line_end < 0 else line_end + 1


# -- hooks -------------------------------------------------------------------------------------------------------------


def _each_hook(root: Path | None, act: Callable[[Path], Done]) -> Iterator[Done]:
    if root is None:
        yield Done(
            place="hooks", what="left alone", why="a hook belongs to a repository: run 'fm git install' there as well"
        )
        return
    folder = root / git("rev-parse", "--git-path", "hooks", cwd=root).decode().rstrip("\n")
    homes = [root, *(Path(git("rev-parse", word, cwd=root).decode().rstrip("\n")) for word in _GIT_DIRS)]
    inside = any(_is_below(folder, (root / home)) for home in homes)
    for name in HOOKS:
        if inside:
            yield act(folder / name)
        else:
            why = "core.hooksPath points out of this repository, to hooks that others use too"
            yield Done(place=str(folder / name), what="left alone", why=why)


_GIT_DIRS = ("--git-common-dir", "--absolute-git-dir")


def _is_below(folder: Path, home: Path) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(home))


def hook_text(name: str) -> str:
    """Return a hook: it runs the one that was there before, then checks."""
    python = shlex.quote(sys.executable)
    return f"""#!/bin/sh
{_HOOK_MARK}
before="$(dirname "$0")/{name}{KEPT}"
if [ -x "$before" ]; then "$before" "$@" || exit $?; fi
if [ ! -x {python} ]; then
  echo "flowmason: there is no {python} any more; pipelines are not checked. Run 'fm git install' again." >&2
  exit 0
fi
exec {program()} git pre-commit
"""


def _install_hook(file: Path) -> Done:
    content = _read(file)
    text = hook_text(file.name).encode()
    if content == text:
        return Done(place=str(file), what="as it was")
    kept = file.with_name(file.name + KEPT)
    why = ""
    if content is not None and not _is_ours(content):
        if kept.exists():
            return Done(place=str(file), what="left alone", why=f"{kept.name} is there already, from an earlier hook")
        _act(file, lambda: os.replace(file, kept))
        why = f"the hook that was there is run first, as {kept.name}"
    _write(file, text)
    _act(file, lambda: file.chmod(0o755))
    return Done(place=str(file), what="written", why=why)


def _uninstall_hook(file: Path) -> Done:
    content = _read(file)
    kept = file.with_name(file.name + KEPT)
    if content is not None and not _is_ours(content):
        why = f"it is not ours any more; {kept.name} is what was there before" if kept.exists() else ""
        return Done(place=str(file), what="left alone" if why else "as it was", why=why)
    if content is not None:
        _act(file, file.unlink)
    if kept.exists():
        _act(file, lambda: os.replace(kept, file))
    return Done(place=str(file), what="as it was" if content is None else "removed")


def _is_ours(content: bytes) -> bool:
    return _HOOK_MARK.encode() in content


# -- files -------------------------------------------------------------------------------------------------------------


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InvalidCall(f"Cannot read {str(file)!r}: {exc.strerror or exc}.") from None


def _write(file: Path, content: bytes) -> None:
    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    _act(file, write)


def _act(file: Path, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as exc:
        raise InvalidCall(f"Cannot write {str(file)!r}: {exc.strerror or exc}.") from None
