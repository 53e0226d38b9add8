"""What a stage is defined to do: the part of its fingerprint that is fixed when the plan is made.

A definition holds what decides the result: the component with its version (and for code that belongs to a project or a
script its digest, so that edited code runs again), the config as written, `when`. It leaves out what does not: the id, names,
positions, retries, time limits, `on_error`, placement, the effect class.

The definitions of a run's stages are recorded with it, so that a later run can say what has changed since.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.plan import Plan, PlanStage

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


class Definition(NamedTuple):
    """One stage's: what it says, and the digest of that."""

    says: Mapping[str, Any]
    digest: bytes


class Definitions:
    """Those of a plan's stages, each made when it is first asked for."""

    def __init__(self, plan: Plan) -> None:
        self._made: dict[int, Definition] = {}
        self._heads: dict[int, dict[str, Any]] = {}
        """By component: what its stages' definitions begin with."""
        self.prefixes = tuple(scope_prefixes(plan))
        self.plan = plan

    def of(self, stage: PlanStage) -> Definition:
        """Return a stage's definition."""
        found = self._made.get(id(stage))
        if found is None:
            says = self._head(stage.component)
            source: Any = stage.template.source
            says["config"] = {**source, **stage.fixed} if stage.fixed else source
            if stage.when is not None:
                says["when"] = stage.when.source
            if stage.llm:
                # Which model answers, and to which words, decides the result as the config does.
                says["llm_settings"] = {name: value for name, value in stage.llm.items() if name != "prompts"}
                if prompts := stage.llm.get("prompts"):
                    says["prompts"] = {name: _prompt_words(each) for name, each in prompts.items()}
            digest = sha256(orjson.dumps(says, option=_OPTIONS, default=str)).digest()
            found = self._made[id(stage)] = Definition(says, digest)
        return found

    def _head(self, component: ComponentSpec | None) -> dict[str, Any]:
        if component is None:
            return {}
        head = self._heads.get(id(component))
        if head is None:
            head = self._heads[id(component)] = {"component": f"{component.name}@{component.version}"}
            code = code_digest(component)
            if code is not None:
                head["code"] = code
        return head.copy()

    def recorded(self) -> dict[str, Any]:
        """Return what is recorded with a run: for each stage, by its path without positions, what its definition says."""
        return {
            f"{self.prefixes[scope.index]}{stage.id}": {**self.of(stage).says, "effect": stage.effect.value}
            for scope, stage in self.plan.stages()
        }


def _prompt_words(prompt: Mapping[str, str]) -> str:
    """Return what identifies a prompt: its version, and a digest of its text."""
    return f"{prompt['version']} {sha256(prompt['text'].encode()).hexdigest()[:16]}"


def scope_prefixes(plan: Plan) -> Iterator[str]:
    """Yield, scope by scope, what the paths of its stages begin with, without positions: "", `each/`, `call/each/`."""
    known: list[str] = []
    for scope in plan.scopes:
        prefix = ""
        if scope.parent is not None:
            assert scope.owner is not None
            prefix = f"{known[scope.parent]}{plan.scopes[scope.parent].stages[scope.owner].id}/"
        known.append(prefix)
        yield prefix


def code_digest(component: ComponentSpec) -> str | None:
    """Return a digest of the file in which a component is written; None for an installed one, which has a version."""
    if component.file is not None:
        return _file_digest(str(component.file))
    if component.module.startswith("flowmason_ray."):
        return None
    file = str(getattr(sys.modules.get(component.module), "__file__", None) or "")
    return None if not file or "site-packages" in file else _file_digest(file)


@lru_cache(maxsize=256)
def _file_digest_at(file: str, modified_ns: int, size_bytes: int) -> str:
    return sha256(Path(file).read_bytes()).hexdigest()[:16]


def _file_digest(file: str) -> str | None:
    try:
        facts = Path(file).stat()
        return _file_digest_at(file, facts.st_mtime_ns, facts.st_size)
    except OSError:  # it is gone since it was imported
        return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in what two recorded definitions differ: `component (http@1.0.0 → http@1.1.0)`, `config.url`, `when`, `code`."""
    found: list[str] = []
    if old.get("component") != new.get("component"):
        found.append(f"component ({old.get('component')} → {new.get('component')})")
    if old.get("code") != new.get("code"):
        found.append("the component's code")
    if old.get("when") != new.get("when"):
        found.append("when")
    found += [name for name in ("llm_settings", "prompts") if old.get(name) != new.get(name)]
    before, after = old.get("config"), new.get("config")
    if before != after:
        if isinstance(before, dict) and isinstance(after, dict):
            a, b = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
            found += [f"config.{key}" for key in sorted({*a, *b}) if a.get(key, found) != b.get(key, found)]
        else:
            found.append("config")
    return found
