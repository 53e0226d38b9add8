"""The lock, `flowmason.lock`: which version, and which content, each reference to another pipeline stands for.

A range such as `base@^1.2` means whatever is the highest version on the day; the lock makes it mean the same for everybody,
until somebody runs `fm lock`. What is pinned: every parent, composition and called pipeline, by the reference as it is written; a
path by the file it leads to, relative to the project. The digest is taken over the canonical document, so that formatting
and older spellings do not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, cast

import orjson

from flowmason_ray.errors import InvalidPipeline, Problem

LOCK_FILE = "flowmason.lock"
LOCK_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What one reference stands for."""

    name: str
    version: str
    digest: str
    found: str
    """Where it was found: relative to the project, or `distribution:path`. For people; nothing depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The content of a lock."""

    pins: dict[str, Pin] = field(default_factory=dict[str, Pin])
    exists: bool = True


def digest_of(data: Mapping[str, Any]) -> str:
    """Return the digest of a document in canonical spelling, whatever the order of its keys."""
    return "sha256:" + sha256(orjson.dumps(data, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read_lock(file: Path) -> Lock:
    """Read a lock; a file that is not there pins nothing.

    Raises:
        InvalidPipeline: it is no lock, or one of a newer version.
    """
    try:
        content: Any = json.loads(file.read_bytes())
    except FileNotFoundError:
        return Lock(exists=False)
    except (OSError, ValueError, RecursionError) as exc:
        _refuse(file, f"It cannot be read: {exc}.")
    if not isinstance(content, dict) or not isinstance(cast("dict[str, Any]", content).get("pipelines"), dict):
        _refuse(file, "It is no lock: an object with 'lock_version' and 'pipelines' is expected.")
    known = cast("dict[str, Any]", content)
    if known.get("lock_version") != LOCK_VERSION:
        _refuse(file, f"Its version is {known.get('lock_version')!r}; this FlowMason knows {LOCK_VERSION}.")
    pins: dict[str, Pin] = {}
    for reference, said in cast("dict[str, Any]", known["pipelines"]).items():
        facts = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
        texts = {key: facts.get(key) for key in ("name", "version", "digest", "found")}
        if not all(isinstance(text, str) for text in texts.values()):
            _refuse(file, f"What it says about {reference!r} lacks one of: {', '.join(texts)}.")
        pins[reference] = Pin(**cast("dict[str, str]", texts))
    return Lock(pins=pins)


def lock_bytes(pins: Mapping[str, Pin]) -> bytes:
    """Return the content of a lock: sorted, one line per fact, so that it merges well."""
    pipelines = {
        reference: {"name": pin.name, "version": pin.version, "digest": pin.digest, "found": pin.found}
        for reference, pin in sorted(pins.items())
    }
    document = {"lock_version": LOCK_VERSION, "pipelines": pipelines}
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()


def _refuse(file: Path, message: str) -> NoReturn:
    hint = "Run 'fm lock' to make it anew."
    raise InvalidPipeline([Problem(code="invalid_lock", message=message, file=str(file), hint=hint)]) from None
