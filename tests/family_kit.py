"""What tests of inheritance share: families of pipelines in memory, put together, and compared whatever the order of keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.inheritance import Inheritance, Resolved
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_text

Data = dict[str, Any]


class Family:
    """Pipelines that know each other by name; each is a document of its own, with lines."""

    def __init__(self, *documents: Mapping[str, Any]) -> None:
        self.files: dict[str, LoadedPipeline] = {}
        for data in documents:
            text = json.dumps(data, indent=1)
            self.files[data["name"]] = load_pipeline_text(text, file=f"/nowhere/{data['name']}.pipeline.json")
        self.inheritance = Inheritance(self.find)

    def find(self, reference: str, from_file: str | None) -> LoadedPipeline:
        """Return the pipeline of that name."""
        if reference not in self.files:
            raise InvalidPipeline([Problem(code="pipeline_not_found", message=f"There is no {reference!r}.")])
        return self.files[reference]

    def resolve(self, name: str) -> LoadedPipeline:
        """Return a pipeline put together."""
        return self.inheritance.resolve(self.files[name])

    def family(self, name: str) -> Resolved:
        """Return it with the files that it is made of."""
        return self.inheritance.family(self.files[name])

    def problems(self, name: str) -> list[Problem]:
        """Return what is wrong with it."""
        try:
            self.family(name)
        except InvalidPipeline as exc:
            return list(exc.problems)
        return []


def stage(id: str, component: str = "logger", **more: Any) -> Data:
    """Return a stage."""
    return {"id": id, "component_type": component, **more}


def base(*stages: Data, **more: Any) -> Data:
    """Return a pipeline called `base`."""
    return {"name": "base", "stages": list(stages), **more}


def child(
    overrides: Data | None = None, *stages: Data, extends: Any = "base", name: str = "child", **more: Any
) -> Data:
    """Return a pipeline that extends others."""
    data: Data = {"name": name, "extends": extends, **more}
    if overrides is not None:
        data["overrides"] = overrides
    if stages:
        data["stages"] = list(stages)
    return data


def put_together(*documents: Data, of: str = "child") -> Data:
    """Return the document that a family amounts to."""
    return Family(*documents).resolve(of).data


def stages_of(data: Mapping[str, Any]) -> dict[str, Data]:
    """Return the stages of a document by id."""
    return {each["id"]: each for each in data.get("stages", ())}


def meaning(data: Mapping[str, Any], *without: str) -> str:
    """Return what a document means, as text: without the order of keys and of stages."""
    kept: Data = {key: value for key, value in data.items() if key not in without}
    for part in ("stages", "compositions"):
        if part in kept:
            kept[part] = {each["id"]: each for each in kept[part]}
    return json.dumps(kept, sort_keys=True)


def told(problems: list[Problem]) -> list[tuple[str, str]]:
    """Return the codes and places of problems."""
    return [(problem.code, problem.path) for problem in problems]
