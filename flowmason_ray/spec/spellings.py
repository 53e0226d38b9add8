"""Older spellings of the format: accepted on reading, rewritten by `fm fmt`, gone behind this module.

`respell` turns a parsed document into its canonical spelling, so that nobody else needs to know the older ones, and
remembers where each moved part was written, so that problems still point there. It never loses anything: where an older
and the current spelling of the same thing disagree, both stay as they were written and a problem says so.

Works on plain values, before any model has seen them: what does not have the expected shape is left for the models to
complain about. Numbers may be `WrittenNumber`s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from flowmason_ray.errors import Problem
from flowmason_ray.spec.parsing import WrittenNumber
from flowmason_ray.spec.pipeline import slugify
from flowmason_ray.spec.source import join_pointer

_COMPONENT_KEYS = ("type", "component")
_CONFIG_KEYS = ("input_mapping", "inputs")
_OLDER_STAGE_KEYS = frozenset({*_COMPONENT_KEYS, *_CONFIG_KEYS, "retry_config"})

_RETRY_KEYS = {
    "max_retries": "max_attempts",
    "retry_delay_ms": "initial_delay_ms",
    "delay_ms": "initial_delay_ms",
    "backoff_factor": "backoff_multiplier",
    "retry_on_errors": "retry_on",
}
_BRANCH_KEYS = {"true_branch": "true_branch_stages", "false_branch": "false_branch_stages"}
_COMPONENT_NAMES = {"synthesizer": "combiner"}

_WITH_TEMPLATES = ("config", "fallback_output", "cache")
"""Keys of a stage under which templates are written; `when` is an expression with or without braces."""

_EXACT = 2**53
"""Whole numbers below this survive the way through a float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Respelled:
    """A document in its canonical spelling."""

    data: dict[str, Any]
    moved: Mapping[str, str]
    """Canonical pointer → the pointer at which it is written, for whatever moved; what lies below moved along."""
    problems: tuple[Problem, ...]
    """Where two spellings disagree; `path` is the older one, which is still there."""
    warnings: tuple[Problem, ...]

    def written_at(self, pointer: str) -> str:
        """Return the pointer at which the value of a canonical `pointer` stands in the text."""
        head = pointer
        while head:
            if head in self.moved:
                return self.moved[head] + pointer[len(head) :]
            head = head.rpartition("/")[0]
        return pointer


def respell(data: dict[str, Any]) -> Respelled:
    """Return `data` in its canonical spelling. `data` itself is not changed; unchanged parts are shared."""
    work = _Respelling()
    made = dict(data)
    stages = data.get("stages")
    if isinstance(stages, list):
        made["stages"] = [
            work.stage(cast("dict[str, Any]", stage), f"/stages/{index}") if isinstance(stage, dict) else stage
            for index, stage in enumerate(cast("list[Any]", stages))
        ]
    overrides = data.get("overrides")
    if isinstance(overrides, dict):
        made["overrides"] = {
            key: work.stage(cast("dict[str, Any]", patch), f"/overrides{join_pointer(key)}")
            if isinstance(patch, dict)
            else patch
            for key, patch in cast("dict[str, Any]", overrides).items()
        }
    if isinstance(data.get("defaults"), dict):
        made["defaults"] = work.retry(data["defaults"], "/defaults")
    if isinstance(data.get("compositions"), list):
        made["compositions"] = work.compositions(data["compositions"])
    respell_references(made)
    return Respelled(data=made, moved=work.moved, problems=tuple(work.problems), warnings=tuple(work.warnings))


@lru_cache(maxsize=4096)
def canonical_component(written: str) -> str:
    """Return a component reference with its name in snake case and today's name; owner, package and range stay.

    `json-transform@^1.0` → `json_transform@^1.0`; `synthesizer` → `combiner`.
    """
    owner, colon, rest = written.rpartition(":") if ":" in written.partition("@")[0] else ("", "", written)
    name, at, wanted = rest.partition("@")
    name = name.replace("-", "_")
    if not colon:
        name = _COMPONENT_NAMES.get(name, name)
    return f"{owner}{colon}{name}{at}{wanted}"


@dataclass(slots=True)
class _Respelling:
    moved: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[Problem] = field(default_factory=list[Problem])
    warnings: list[Problem] = field(default_factory=list[Problem])

    def stage(self, stage: dict[str, Any], at: str) -> dict[str, Any]:
        """Respell a stage, or a patch of one."""
        made = dict(stage)
        if not _OLDER_STAGE_KEYS.isdisjoint(made):
            for older in _COMPONENT_KEYS:
                self._rename(made, older, "component_type", at, same=_same_component)
            self._merge_into_config(made, at)
            made = self.retry(made, at)
        component = made.get("component_type")
        if isinstance(component, str):
            made["component_type"] = canonical_component(component)
            self._branches(made, at)
        if made.get("on_error") == "propagate":
            made["on_error"] = "fail"
        return made

    def retry(self, owner: dict[str, Any], at: str) -> dict[str, Any]:
        """Respell `retry_config` of a stage or of the defaults."""
        if "retry_config" not in owner:
            return owner
        made = dict(owner)
        older = made["retry_config"]
        if not isinstance(older, dict):
            self._rename(made, "retry_config", "retry", at)
            return made
        retry = dict(cast("dict[str, Any]", older))
        for name, current in _RETRY_KEYS.items():
            if name in retry:
                if name == "max_retries":
                    retry[name] = _plus_one(retry[name])
                self._rename(retry, name, current, f"{at}/retry_config", to=f"{at}/retry")
        made["retry_config"] = retry
        if not self._rename(made, "retry_config", "retry", at):
            made["retry_config"] = older  # the two disagree: leave the older one exactly as it was written
            for current in _RETRY_KEYS.values():
                self.moved.pop(f"{at}/retry/{current}", None)
        return made

    def compositions(self, written: list[Any]) -> list[Any]:
        """Respell a list of names as a list of objects."""
        made: list[Any] = []
        for index, item in enumerate(written):
            if isinstance(item, str):
                name = item.partition("@")[0].rpartition("/")[2].removesuffix(".json").removesuffix(".pipeline")
                made.append({"id": slugify(name), "pipeline": item})
                self.moved[f"/compositions/{index}/id"] = self.moved[f"/compositions/{index}/pipeline"] = (
                    f"/compositions/{index}"
                )
            else:
                made.append(item)
        return made

    def _merge_into_config(self, stage: dict[str, Any], at: str) -> None:
        config = stage.get("config", {})
        for older in _CONFIG_KEYS:
            if older not in stage:
                continue
            mapping = stage[older]
            if not isinstance(mapping, dict) or not isinstance(config, dict):
                if "config" not in stage:
                    self._rename(stage, older, "config", at)
                else:
                    self._disagree(older, "config", at)
                continue
            merged = dict(cast("dict[str, Any]", config))
            for key, value in cast("dict[str, Any]", mapping).items():
                if key not in merged:
                    merged[key] = value
                    self.moved[f"{at}/config{join_pointer(key)}"] = f"{at}/{older}{join_pointer(key)}"
                elif merged[key] != value:
                    self.warnings.append(
                        Problem(
                            code="shadowed_value",
                            message=f"{key!r} under {older!r} has no effect: another spelling of 'config' sets it too.",
                            path=f"{at}/{older}{join_pointer(key)}",
                            severity="warning",
                        )
                    )
            if "config" not in stage:
                self.moved[f"{at}/config"] = f"{at}/{older}"
            del stage[older]
            stage["config"] = config = merged

    def _branches(self, stage: dict[str, Any], at: str) -> None:
        config = stage.get("config")
        if stage["component_type"].partition("@")[0] != "conditional" or not isinstance(config, dict):
            return
        made = dict(cast("dict[str, Any]", config))
        for older, current in _BRANCH_KEYS.items():
            self._rename(made, older, current, f"{at}/config")
        stage["config"] = made

    def _rename(
        self, owner: dict[str, Any], older: str, current: str, at: str, *, to: str | None = None, same: Any = None
    ) -> bool:
        """Move `owner[older]` to `current`; `at` and `to` are where `owner` is written and canonically is.

        Returns: False when both are written and disagree: then both stay and a problem is noted.
        """
        if older not in owner:
            return True
        if current not in owner:
            origin = self.moved.get(f"{at}/{older}", f"{at}/{older}")
            renamed = {current if key == older else key: value for key, value in owner.items()}
            owner.clear()
            owner.update(renamed)
            self.moved[f"{to or at}/{current}"] = origin
            return True
        agree = same(owner[older], owner[current]) if same else owner[older] == owner[current]
        if not agree:
            self._disagree(older, current, at)
            return False
        del owner[older]
        return True

    def _disagree(self, older: str, current: str, at: str) -> None:
        self.problems.append(
            Problem(
                code="two_spellings",
                message=f"{older!r} is an older spelling of {current!r}; both are written here and they differ.",
                path=f"{at}/{older}",
                hint=f"Keep {current!r}.",
            )
        )


def _same_component(one: object, other: object) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return canonical_component(one) == canonical_component(other)
    return one == other


def _plus_one(retries: object) -> object:
    """Return the number of attempts that makes so many retries; what is no whole number comes back as it is."""
    if isinstance(retries, WrittenNumber):
        number = float(retries.text)
        return WrittenNumber(str(int(number) + 1)) if number.is_integer() and abs(number) < _EXACT else retries
    if isinstance(retries, (int, float)) and not isinstance(retries, bool) and float(retries).is_integer():
        return int(retries) + 1
    return retries


def respell_references(data: dict[str, Any]) -> None:
    """Rewrite older references in the templates of a document whose top level and stages are ours to change.

    What `x.output.y` means depends on which stages there are, so a pipeline that inherits some is done once more when it is
    put together.
    """
    written = data.get("stages")
    listed = cast("list[Any]", written) if isinstance(written, list) else []
    stages = [cast("dict[str, Any]", stage) for stage in listed if isinstance(stage, dict)]
    known = frozenset(stage["id"] for stage in stages if isinstance(stage.get("id"), str)) - _loop_variables(stages)
    for owner, keys in (
        *((stage, _WITH_TEMPLATES) for stage in stages),
        (data, ("output", "overrides", "compositions")),
    ):
        for key in keys:
            if key in owner and _may_hold_older_reference(owner[key]):
                owner[key] = _rewritten(owner[key], known)
    for stage in stages:
        when = stage.get("when")
        if isinstance(when, str) and _has_older_word(when):
            stage["when"] = _rewritten(when, known, expression=True)


def _loop_variables(stages: list[dict[str, Any]]) -> frozenset[str]:
    """Return the names that mean an item of a loop somewhere: `{{item.output}}` is then not a stage called `item`."""
    names: set[str] = set()
    for stage in stages:
        config = stage.get("config")
        if stage.get("component_type") == "foreach" and isinstance(config, dict):
            known = cast("dict[str, Any]", config)
            chosen = (known.get("item_variable", "item"), known.get("index_variable", "index"))
            names.update(name for name in chosen if isinstance(name, str))
    return frozenset(names)


def _has_older_word(text: str) -> bool:
    # Every older spelling has one of two words in it; most templates have neither, and parsing is not free.
    return "upstream" in text or "output" in text


def _may_hold_older_reference(value: Any) -> bool:
    if isinstance(value, str):
        return "{{" in value and _has_older_word(value)
    if isinstance(value, dict):
        return any(map(_may_hold_older_reference, cast("dict[str, Any]", value).values()))
    return isinstance(value, list) and any(map(_may_hold_older_reference, cast("list[Any]", value)))


def _rewritten(value: Any, known: Collection[str], *, expression: bool = False) -> Any:
    # Brings in the template parser: only for who needs it.
    from flowmason_ray.spec.templates import rewrite_expression, rewrite_references

    return rewrite_expression(value, known) if expression else rewrite_references(value, known)
