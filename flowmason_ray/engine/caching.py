"""`cache` on a stage: what may be cached at all, checked when the plan is made."""

from __future__ import annotations

from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.drafts import Draft, Report
from flowmason_ray.engine.plan import CachePolicy
from flowmason_ray.spec.pipeline import Cache, Pipeline


def plan_cache(draft: Draft, effect: Effect, pipeline: Pipeline, report: Report) -> CachePolicy | None:
    """Return the policy of a stage: its own, else the pipeline's default where that can apply.

    Only an ordinary, pure stage can be cached. One that draws a time or an identifier gives something else every time; with a
    `key` it says itself what its result depends on.
    """
    spec = draft.spec
    assert spec is not None
    own = "cache" in spec.model_fields_set
    said = spec.cache if own else pipeline.defaults.cache
    if not said or draft.component is None:
        return None
    why = _why_not(draft, effect)
    if why is not None:
        if own:
            report("not_cacheable", f"{draft.title} cannot be cached: {why}", f"{draft.pointer}/cache")
        return None
    return CachePolicy(ttl_s=said.ttl_s if isinstance(said, Cache) else None, key=draft.cache_key)


def check_default_cache(pipeline: Pipeline, report: Report) -> None:
    """Refuse a key for all stages: it would make them share one result."""
    said = pipeline.defaults.cache
    if isinstance(said, Cache) and said.key is not None:
        message = "A cache key identifies the result of one stage; in 'defaults' all stages would share it. Say it at the stage."
        report("not_cacheable", message, "/defaults/cache/key")


def _why_not(draft: Draft, effect: Effect) -> str | None:
    component, key = draft.component, draft.cache_key
    assert component is not None
    if draft.construct is not None:
        return f"{component.name!r} decides about other stages; say 'cache' at those."
    if effect is not Effect.PURE:
        return (
            f"it is {effect.value}, and only pure stages can be. If all it does is to compute its output, say so with "
            '"effect": "pure".'
        )
    if key is None and (draft.template.draws or (draft.when is not None and draft.when.draws)):
        return "it draws a time or an identifier, so its result is another one every time. Give it a 'key', or take it out."
    if key is not None and key.draws:
        return "its key draws a time or an identifier, so it is another one every time."
    if key is not None and any(reference.root == "secrets" for _, reference in key.references):
        return "its key reads a secret, which must not leave the run."
    return None
