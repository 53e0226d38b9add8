"""What a stage is run with: what it says itself, else what the pipeline says for all, else what its component says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowmason_ray.engine.caching import plan_cache
from flowmason_ray.engine.component import Cost, Effect, Kind
from flowmason_ray.engine.retry import RetryPolicy
from flowmason_ray.errors import InvalidPipeline

if TYPE_CHECKING:
    from flowmason_ray.engine.drafts import Draft, Report
    from flowmason_ray.spec.pipeline import Pipeline
    from flowmason_ray.spec.pipeline import Retry as RetrySpec

ModelChoice = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
"""From what the pipeline and the stage say (`llm_settings`, the weaker first), which settings hold: what neither says comes
from the project and the environment. Raises `InvalidPipeline` for what cannot be."""

PromptChoice = Callable[[Sequence[str], "str | None"], Mapping[str, Any]]
"""From the prompts that a component asks with, and the version that a stage wants, what its plan keeps: name → `version` and
`text`. Raises `InvalidPipeline` for what cannot be."""


def execution(draft: Draft, pipeline: Pipeline, report: Report) -> dict[str, Any]:
    """Return how a stage is run: what it says itself, else the pipeline's defaults, else the component's."""
    spec, component, defaults = draft.spec, draft.component, pipeline.defaults
    assert spec is not None
    timeout_ms = spec.timeout_ms or defaults.timeout_ms
    resources: dict[str, Any] = {**(component.resources if component else {})}
    for said in (defaults.resources, spec.resources):
        if said is not None:
            resources.update(said.model_dump(exclude_unset=True))
    if spec.resources is not None and spec.resources.memory_mib is not None:
        _check_memory(draft, report)
    effect = Effect(spec.effect) if spec.effect else component.effect if component else Effect.PURE
    return {
        "component": component,
        "enabled": spec.enabled,
        "retry": _retry(spec.retry or defaults.retry),
        "timeout_s": None if timeout_ms is None else timeout_ms / 1000,
        "on_error": spec.on_error,
        "fallback_output": spec.fallback_output,
        "effect": effect,
        "cache": plan_cache(draft, effect, pipeline, report),
        "cost": component.cost if component else Cost.TRIVIAL,
        "resources": resources,
    }


def _check_memory(draft: Draft, report: Report) -> None:
    """Say where a stage's attempts are not held to the memory that it asks for."""
    component = draft.component
    if component is None or component.actors is None or component.actors.concurrency == 1:
        return
    message = (
        f"On Ray, attempts of stage {draft.id!r} are not held to 'memory_mib': component {component.name!r} carries out "
        f"{component.actors.concurrency} calls at a time in one process, and whose memory it is cannot be told. It is what each of "
        "these processes reserves."
    )
    hint = "Actors(recycle_at_mib=…) of the component has a process replaced that has grown too large."
    report("memory_not_held", message, f"{draft.pointer}/resources/memory_mib", severity="warning", hint=hint)


def model_settings(
    draft: Draft, pipeline: Pipeline, choose: ModelChoice | None, report: Report
) -> Mapping[str, Any] | None:
    """Return a stage's effective `llm_settings`; None when it is not known to use models."""
    spec, component = draft.spec, draft.component
    assert spec is not None
    if spec.llm_settings is None and (component is None or component.kind is not Kind.NODE):
        return None
    layers: list[Mapping[str, Any]] = []
    said = ((pipeline.defaults.llm_settings, "/defaults"), (spec.llm_settings, draft.pointer))
    for settings, pointer in said:
        if settings is None:
            continue
        layers.append(settings.model_dump(exclude_none=True, exclude={"extensions"}))
        if choose is None:
            continue
        try:
            choose(layers)
        except InvalidPipeline as exc:
            for problem in exc.problems:
                where = f"{pointer}/llm_settings{problem.path}"
                report(problem.code, problem.message, where, nearest=problem.nearest, hint=problem.hint)
            return None  # the pipeline's own mistake is reported for each stage, and kept once (`try_plan`)
    if choose is not None:
        return choose(layers)
    return {name: value for layer in layers for name, value in layer.items()}


def with_prompts(
    settings: Mapping[str, Any] | None, draft: Draft, choose: PromptChoice | None, report: Report
) -> Mapping[str, Any] | None:
    """Return a stage's model settings with the text of its prompts, so that the text goes where the stage goes."""
    if choose is None or draft.component is None or not draft.component.prompts:
        return settings
    version = draft.fixed.get("prompt_version")
    try:
        found = choose(draft.component.prompts, None if version is None else str(version))
    except InvalidPipeline as exc:
        said = "prompt_version" in draft.fixed
        for problem in exc.problems:
            where = f"{draft.pointer}/config/prompt_version" if said else draft.pointer
            # The pipeline is where it is told; the prompt's own file, if that is what is wrong, stands in the message.
            message = f"{problem.message} ({problem.file})" if problem.file else problem.message
            report(problem.code, message, where, nearest=problem.nearest, hint=problem.hint)
        return settings
    return {**(settings or {}), "prompts": found}


_ONCE = RetryPolicy()


def _retry(retry: RetrySpec | None) -> RetryPolicy:
    if retry is None:
        return _ONCE
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_delay_s=retry.initial_delay_ms / 1000,
        max_delay_s=retry.max_delay_ms / 1000,
        backoff_multiplier=retry.backoff_multiplier,
        jitter=retry.jitter,
        retry_on=frozenset(retry.retry_on),
    )
