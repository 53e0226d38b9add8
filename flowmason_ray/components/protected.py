"""What a project executes or trusts, and what its components therefore never write.

A path in a config may come out of a template, so out of foreign data. Were every file of the project open to it, such a text
could become a component that is loaded next time, a host that may be reached, or another past of a run. Reading stays allowed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from flowmason_ray.errors import PermanentError
from flowmason_ray.settings import PROJECT_FILE

_FOLDERS = (".flowmason", ".git", "components", "prompts")
"""Run logs and stores; hooks and settings of git, which run programs; code; what models are told to do."""
_FILES = (PROJECT_FILE, "flowmason.lock", ".env")
_PIPELINE = ".pipeline.json"
_CODE = (".py", ".pyc", ".pyd", ".so", ".pth")


def refuse_protected(root: Path, file: Path, path: str) -> None:
    """Refuse a path that a component must not change.

    Args:
        root: The project's directory, links followed.
        file: Where the path leads, links followed; or a link that is to be changed itself.
        path: As it is written.

    Raises:
        PermanentError: `path_protected`.
    """
    why = _why(root, file)
    if why is not None:
        raise PermanentError(
            f"The path {path!r} is protected: {why}. Components cannot change it; write to another place in the project.",
            code="path_protected",
        )


def _why(root: Path, file: Path) -> str | None:
    parts = _folded(file, root)
    if parts and parts[-1].endswith(_PIPELINE):
        return f"the project runs its '*{_PIPELINE}' files"
    components, stores = _configured(root)
    for name in dict.fromkeys((*_FOLDERS, *_FILES, *components, *stores)):
        # Where the name leads counts, too: 'components' may be a link to another directory of the project.
        for place in {root / name, (root / name).resolve()}:
            if not place.is_relative_to(root):
                continue
            guarded = _folded(place, root)
            if guarded and (parts[: len(guarded)] == guarded or (name in stores and _beside(parts, guarded))):
                return f"the project executes or trusts {name!r}"
            if file.is_symlink() and guarded[: len(parts)] == parts:  # without it nobody would find what lies there
                return f"the project executes or trusts {name!r}, which lies in it"
            if not guarded and file.suffix.casefold() in _CODE:
                return "the project's components lie in its directory itself"
    return None


def _folded(file: Path, root: Path) -> tuple[str, ...]:
    """Return the parts below the project as a file system compares them that does not tell case apart."""
    return tuple(part.casefold() for part in file.relative_to(root).parts)


def _beside(parts: tuple[str, ...], store: tuple[str, ...]) -> bool:
    """Tell whether a file is one that SQLite keeps beside a database."""
    return parts in [(*store[:-1], store[-1] + ending) for ending in ("-wal", "-shm", "-journal")]


def _configured(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        facts = (root / PROJECT_FILE).stat()
    except OSError:
        return (), ()
    return _read(root / PROJECT_FILE, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _read(file: Path, modified_ns: int, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the directories of components and the files of stores that the settings name. Broken settings are reported elsewhere."""
    try:
        settings: Any = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return (), ()
    if not isinstance(settings, dict):
        return (), ()
    known = cast("dict[str, Any]", settings)
    components: Any = known.get("components")
    stores = [_of(known, "stores", "runs"), _of(known, "stores", "blobs"), _of(known, "retrieval", "file")]
    return _paths(cast("list[Any]", components) if isinstance(components, list) else []), _paths(stores)


def _of(settings: dict[str, Any], section: str, key: str) -> Any:
    inner = settings.get(section)
    return cast("dict[str, Any]", inner).get(key) if isinstance(inner, dict) else None


def _paths(names: list[Any]) -> tuple[str, ...]:
    return tuple(name for name in names if isinstance(name, str) and name and "://" not in name and "\0" not in name)
