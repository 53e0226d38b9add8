"""Policies: texts with an id, tags and a severity, in files of the project.

A Markdown file is one policy: its front matter says `id`, `title`, `tags: a, b`, `severity` and what else is wanted; without an
id it is the file's name. A JSON file holds one policy or a list of them, with the same keys and `text`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowmason_ray.components.builtin.contents import json_flaw
from flowmason_ray.components.documents.plain import decode, front_matter, read_markdown
from flowmason_ray.components.files import existing_file, file_errors, relative, resolve_inside
from flowmason_ray.components.vectors.port import words_of
from flowmason_ray.errors import PermanentError

MAX_FILE_BYTES = 5 * 1024 * 1024
MAX_FILES = 2000


class Policy(BaseModel):
    """A policy."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(min_length=1, description="Its id; findings name it.")
    text: str = Field(min_length=1, description="What it says.")
    title: str | None = Field(default=None, description="Its title.")
    tags: list[str] = Field(default=[], description="What it is about.")
    severity: Literal["error", "warning", "info"] = Field(default="error", description="How bad a breach of it is.")
    version: str | None = Field(default=None, description="Its version.")
    source: str | None = Field(default=None, description="The file that it is from.")
    metadata: dict[str, Any] = Field(default={}, description="What else its file says.")


def read_policies(project_dir: Path, path: str) -> list[Policy]:
    """Return the policies of a file, or of all `*.md` and `*.json` below a directory, in the order of their paths.

    Raises:
        PermanentError: there is nothing (`no_policies`), a file is no policy (`invalid_policy`), or two have one id
            (`duplicate_policy`).
    """
    found = resolve_inside(project_dir, path, reading=True)
    files = _below(found, project_dir) if found.is_dir() else [existing_file(project_dir, path)]
    policies: list[Policy] = []
    for file in files:
        policies += _read(file, relative(project_dir, file))
    if not policies:
        raise PermanentError(f"There are no policies in {path!r}: no '*.md' and no '*.json'.", code="no_policies")
    check_ids(policies)
    return policies


def check_ids(policies: Sequence[Policy]) -> None:
    """Refuse policies of which two have one id.

    Raises:
        PermanentError: `duplicate_policy`.
    """
    for id, count in Counter(policy.id for policy in policies).items():
        if count > 1:
            places = ", ".join(repr(p.source or "given") for p in policies if p.id == id)
            raise PermanentError(f"{count} policies have the id {id!r}: {places}.", code="duplicate_policy")


def _below(folder: Path, project_dir: Path) -> list[Path]:
    root = project_dir.resolve()
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".md", ".json") and p.is_file())
    files = [p for p in files if p.resolve().is_relative_to(root)]
    if len(files) > MAX_FILES:
        raise PermanentError(
            f"{relative(project_dir, folder)!r} holds more than {MAX_FILES} files.", code="invalid_policy"
        )
    return files


def _read(file: Path, name: str) -> list[Policy]:
    with file_errors(name):
        if file.stat().st_size > MAX_FILE_BYTES:
            raise PermanentError(f"File {name!r} is too large for a policy.", code="invalid_policy")
        text = decode(file.read_bytes(), None, name)
    if file.suffix == ".json":
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise PermanentError(
                f"File {name!r} is not JSON that can be read: {json_flaw(exc)}.", code="invalid_policy"
            ) from exc
        items = cast("list[Any]", data) if isinstance(data, list) else [data]
        return [_policy(each, name) for each in items]
    about, skipped = front_matter(text)
    tags = [tag.strip().strip("\"'") for tag in str(about.pop("tags", "")).strip("[]").split(",")]
    title = read_markdown(text).metadata.get("title")
    return [
        _policy(
            {"id": file.stem, "title": title, **about, "tags": [t for t in tags if t], "text": text[skipped:].strip()},
            name,
        )
    ]


def _policy(data: Any, name: str) -> Policy:
    if not isinstance(data, dict):
        raise PermanentError(f"File {name!r}: a policy is an object with 'id' and 'text'.", code="invalid_policy")
    written = cast("dict[str, Any]", data)
    more = {key: value for key, value in written.items() if key not in Policy.model_fields}
    try:
        return Policy.model_validate({**written, "source": name, "metadata": {**more, **written.get("metadata", {})}})
    except (ValidationError, TypeError) as exc:
        said = exc.errors()[0] if isinstance(exc, ValidationError) else {"loc": ("metadata",), "msg": "no object"}
        raise PermanentError(
            f"File {name!r} is no policy: {'.'.join(map(str, said['loc']))}: {said['msg']}.", code="invalid_policy"
        ) from exc


def ranked(policies: Sequence[Policy], query: str) -> list[tuple[Policy, float]]:
    """Return the policies that hold words of a query, the best first: BM25 (Robertson, Zaragoza 2009) over title, tags, text."""
    texts = [Counter(words_of(" ".join([p.title or "", *p.tags, p.text]))) for p in policies]
    mean = sum(text.total() for text in texts) / max(len(texts), 1) or 1.0
    scored: list[tuple[Policy, float]] = []
    wanted = list(dict.fromkeys(words_of(query)))
    rarity = {word: _rarity(len(texts), sum(word in text for text in texts)) for word in wanted}
    for policy, text in zip(policies, texts, strict=True):
        length = 0.25 + 0.75 * text.total() / mean
        score = sum(rarity[w] * text[w] * 2.2 / (text[w] + 1.2 * length) for w in wanted if text[w])
        if score > 0:
            scored.append((policy, score))
    return sorted(scored, key=lambda each: (-each[1], each[0].id))


def _rarity(count: int, having: int) -> float:
    return math.log(1 + (count - having + 0.5) / (having + 0.5))
