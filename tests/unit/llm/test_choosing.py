"""Which provider and model a stage means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import node
from flowmason_ray.engine.definitions import Definitions
from flowmason_ray.errors import InvalidCall, InvalidPipeline, PermanentError
from flowmason_ray.llm.choosing import ANTHROPIC_MODEL, OPENAI_MODEL, choices_of, key_variable, key_variables
from flowmason_ray.llm.gateway import Gateway
from flowmason_ray.settings import ProjectSettings, ProviderSettings
from flowmason_ray.spec.loader import load_pipeline_data
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.wiring import open_workspace


def settled(project: Mapping[str, Any], *layers: Mapping[str, Any], **environment: str) -> dict[str, Any]:
    return choices_of(ProjectSettings.model_validate(project), environment).settle(layers)


TWO = {
    "providers": {
        "a": {"type": "anthropic", "default_model": "a-1"},
        "b": {"type": "openai_compatible", "base_url": "http://b/v1", "default_model": "b-1", "embedding_model": "b-e"},
    }
}


def test_stage_before_pipeline_before_project() -> None:
    project = {**TWO, "llm_settings": {"provider": "a", "temperature": 0.1, "seed": 7}}
    found = settled(project, {"temperature": 0.2, "max_tokens": 9}, {"temperature": 0.3})
    assert found == {"provider": "a", "model": "a-1", "temperature": 0.3, "max_tokens": 9, "seed": 7}


def test_another_provider_does_not_inherit_the_model() -> None:
    project = {**TWO, "llm_settings": {"provider": "a", "model": "a-2"}}
    assert settled(project)["model"] == "a-2"
    assert settled(project, {"provider": "b"})["model"] == "b-1"
    assert settled(project, {"provider": "a"})["model"] == "a-2"
    assert settled(project, {"provider": "b", "model": "b-9"}, {"temperature": 1})["model"] == "b-9"


def test_the_vector_model_is_part_of_what_holds() -> None:
    assert settled(TWO, {"provider": "b"})["embedding_model"] == "b-e"


@pytest.mark.parametrize(
    ("environment", "provider", "model"),
    [
        ({"ANTHROPIC_API_KEY": "k"}, "anthropic", ANTHROPIC_MODEL),
        ({"OPENAI_API_KEY": "k"}, "openai", OPENAI_MODEL),
        ({"OPENAI_BASE_URL": "http://x/v1", "FLOWMASON_MODEL": "m"}, "openai", "m"),
        ({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}, "anthropic", ANTHROPIC_MODEL),
        ({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k", "FLOWMASON_PROVIDER": "openai"}, "openai", OPENAI_MODEL),
        ({"ANTHROPIC_API_KEY": "k", "FLOWMASON_MODEL": "m"}, "anthropic", "m"),
    ],
)
def test_one_variable_is_enough(environment: dict[str, str], provider: str, model: str) -> None:
    found = settled({}, **environment)
    assert (found["provider"], found["model"]) == (provider, model)


def test_the_environment_names_the_vector_model_too() -> None:
    own = {"OPENAI_BASE_URL": "http://x/v1"}
    assert "embedding_model" not in settled({}, **own)
    assert settled({}, **own, FLOWMASON_EMBEDDING_MODEL="e")["embedding_model"] == "e"
    assert settled({}, OPENAI_API_KEY="k", FLOWMASON_EMBEDDING_MODEL="e")["embedding_model"] == "e"
    assert "embedding_model" not in settled({}, ANTHROPIC_API_KEY="k", FLOWMASON_EMBEDDING_MODEL="e")
    assert settled(TWO, {"provider": "b"}, FLOWMASON_EMBEDDING_MODEL="e")["embedding_model"] == "b-e"


def test_where_no_model_is_named_the_error_names_the_variables(tmp_path: Path) -> None:
    choices = choices_of(ProjectSettings(), {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    models = Gateway(choices, {}, project_dir=tmp_path).for_attempt(RecordingContext(), None)
    with pytest.raises(PermanentError, match="FLOWMASON_MODEL"):
        asyncio.run(models.generate("hello"))
    with pytest.raises(PermanentError, match="FLOWMASON_EMBEDDING_MODEL"):
        asyncio.run(models.embed(["hello"]))


def test_the_project_comes_before_the_environment() -> None:
    environment = {"ANTHROPIC_API_KEY": "k", "FLOWMASON_PROVIDER": "anthropic", "FLOWMASON_MODEL": "m"}
    found = settled({**TWO, "llm_settings": {"provider": "b"}}, **environment)
    assert (found["provider"], found["model"]) == ("b", "b-1")


def test_the_only_provider_of_a_project_is_meant() -> None:
    only = {"providers": {"b": TWO["providers"]["b"]}}
    assert settled(only, ANTHROPIC_API_KEY="k")["provider"] == "b"


def test_of_several_none_is_guessed() -> None:
    assert "provider" not in settled(TWO)
    with pytest.raises(PermanentError, match="a, b") as found:
        choices_of(ProjectSettings.model_validate(TWO), {}).provider(None)
    assert found.value.code == "provider_not_configured"


def test_without_any_it_says_how_to_configure_one() -> None:
    with pytest.raises(PermanentError, match="ANTHROPIC_API_KEY") as found:
        choices_of(ProjectSettings(), {}).provider(None)
    assert found.value.code == "provider_not_configured"


def test_the_companies_keys_stay_with_the_companies() -> None:
    assert key_variable(ProviderSettings(type="openai_compatible")) == "OPENAI_API_KEY"
    assert key_variable(ProviderSettings(type="openai_compatible", base_url="http://elsewhere/v1")) is None
    assert key_variable(ProviderSettings(type="anthropic", base_url="http://elsewhere")) is None
    assert key_variable(ProviderSettings(type="llama_cpp", model_path="x.gguf")) is None
    providers = choices_of(ProjectSettings(), {"ANTHROPIC_API_KEY": "k", "OPENAI_BASE_URL": "http://x/v1"}).providers
    assert key_variables(providers) == ["ANTHROPIC_API_KEY"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://me:hunter2@host/v1", "holds a user or a password"),
        ("https://me:hunter2@[host/v1", "is not a URL"),
        ("http://host:port/v1", "is not a URL"),
        ("hunter2.example.com/v1", "starts with http"),
        ("https:///hunter2", "starts with http"),
    ],
)
@pytest.mark.parametrize(("name", "variable"), [("openai", "OPENAI_BASE_URL"), ("anthropic", "ANTHROPIC_BASE_URL")])
def test_a_wrong_address_in_the_environment_is_told_to_who_means_it(
    name: str, variable: str, address: str, words: str
) -> None:
    environment = {variable: address, f"{name.upper()}_API_KEY": "k"}
    choices = choices_of(ProjectSettings.model_validate(TWO), environment)
    assert name not in choices.providers
    assert choices.settle([{"provider": "a"}])["provider"] == "a", "nobody else hears of it"
    for layers in ([], [{"provider": name}]):
        with pytest.raises(InvalidCall, match=f"{variable} .*{words}") as caught:
            settled({}, *layers, **environment)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(PermanentError, match=variable) as refused:
        choices.provider(name)
    assert refused.value.code == "provider_not_configured"
    described = {"providers": {name: {"type": "anthropic", "default_model": "m"}}}
    assert settled(described, **environment)["model"] == "m", "the project describes that provider itself"


# -- in a plan ----------------------------------------------------------------------------------------------------------------


@node
class Thinks:
    """Thinks."""

    class Input(BaseModel):
        pass

    class Output(BaseModel):
        pass

    async def execute(self, input: Input, context: Any) -> Output:
        """Think."""
        return self.Output()


def planned(folder: Path, project: Mapping[str, Any], **pipeline: Any) -> Any:
    import json

    (folder / "flowmason.json").write_text(json.dumps(project), encoding="utf-8")
    workspace = open_workspace(folder, components=[Thinks])
    stages = [
        {"id": "think", "component_type": "thinks"},
        {"id": "log", "component_type": "logger", "config": {"message": "x"}},
    ]
    return workspace.plan(load_pipeline_data({"name": "p", "stages": stages, **pipeline}))


def test_a_plan_knows_what_holds_for_each_stage_that_uses_models(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO, defaults={"llm_settings": {"provider": "b", "temperature": 0.5}})
    think, log = plan.root.stages[:2]
    assert think.llm == {"provider": "b", "model": "b-1", "embedding_model": "b-e", "temperature": 0.5}
    assert log.llm is None


def test_another_model_is_another_definition(tmp_path: Path) -> None:
    def digest(model: str) -> bytes:
        plan = planned(tmp_path, TWO, defaults={"llm_settings": {"provider": "b", "model": model}})
        return Definitions(plan).of(plan.root.stages[0]).digest

    assert digest("b-1") == digest("b-1")
    assert digest("b-1") != digest("b-2")


def test_a_provider_that_is_not_there_is_found_when_the_plan_is_made(tmp_path: Path) -> None:
    stages = [{"id": "think", "component_type": "thinks", "llm_settings": {"provider": "bb"}}]
    with pytest.raises(InvalidPipeline) as found:
        planned(tmp_path, TWO, stages=stages)
    (problem,) = found.value.problems
    assert (problem.code, problem.path) == ("unknown_provider", "/stages/0/llm_settings/provider")
    assert problem.nearest == "b"


def test_one_wrong_default_is_one_problem(tmp_path: Path) -> None:
    stages = [{"id": f"think{n}", "component_type": "thinks"} for n in range(3)]
    with pytest.raises(InvalidPipeline) as found:
        planned(tmp_path, TWO, stages=stages, defaults={"llm_settings": {"provider": "x"}})
    assert [p.path for p in found.value.problems] == ["/defaults/llm_settings/provider"]
