"""Prompts: their files, which version holds, what a project may change, and that their content is part of what a stage is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.components.builtin import BUILTIN
from flowmason_ray.components.prompting import PromptLibrary, parse_prompt, prompt_for
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.definitions import Definitions, differences
from flowmason_ray.errors import ExpressionError, InvalidPipeline, PermanentError
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.wiring import load, open_workspace

SMALL = "---\ndescription: d\nvariables: content, feedback, instructions\n---\n# system\nBe brief.\n\n# user\nBetter: {{ content }}\n"


def own(project: Path, text: str = SMALL, name: str = "improver", version: str = "v1") -> Path:
    file = project / "prompts" / name / f"{version}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def refused(library: PromptLibrary, name: str, version: str | None = None) -> tuple[str, str]:
    with pytest.raises(InvalidPipeline) as caught:
        library.find(name, version)
    return caught.value.problems[0].code, str(caught.value.problems[0])


def test_every_node_has_its_prompt_and_every_prompt_its_node():
    specs = [spec for name in BUILTIN if (spec := Registry(entry_points=False).get(name)) is not None]
    named = {prompt for spec in specs for prompt in spec.prompts}
    assert named == set(PromptLibrary(None).names())
    for name in named:
        prompt = PromptLibrary(None).find(name)
        assert prompt.description
        read = {ref.root for part in (*prompt.system, *prompt.user) for _, ref in part.references}
        assert read == set(prompt.variables)


def test_the_projects_file_comes_first_and_newer_numbers_win(tmp_path: Path):
    library = PromptLibrary(tmp_path)
    assert (library.find("improver").version, library.find("improver").origin) == ("v1", "built-in")
    own(tmp_path)
    assert library.find("improver").origin == "project"
    assert library.find("improver").render({"content": "x"}).user == "Better: x"
    own(tmp_path, SMALL.replace("Better", "Best"), version="v10")
    own(tmp_path, SMALL.replace("Better", "House"), version="house")
    own(tmp_path, version="v9")
    assert list(library.versions("improver")) == ["house", "v1", "v9", "v10"]
    assert library.default("improver") == "v10"
    assert library.find("improver", "house").user[0].source == "House: {{ content }}"
    assert library.find("improver", "9").version == "v9"


def test_a_project_has_prompts_of_its_own(tmp_path: Path):
    own(tmp_path, "# user\nHello {{ name }}", name="greeting")
    assert "greeting" in PromptLibrary(tmp_path).names()
    assert PromptLibrary(tmp_path).find("greeting").render({"name": "Ada"}).user == "Hello Ada"
    own(tmp_path, "# user\nHello", name="letter", version="formal")
    code, message = refused(PromptLibrary(tmp_path), "letter")
    assert code == "prompt_not_found"
    assert "formal" in PromptLibrary(tmp_path).versions("letter"), message


def test_what_is_wrong_with_a_prompt_is_told(tmp_path: Path):
    library = PromptLibrary(tmp_path)
    assert refused(library, "improvr")[0] == "prompt_not_found"
    assert "'improver'" in refused(library, "improvr")[1]
    assert "v1" in refused(library, "improver", "v7")[1]
    assert refused(library, "../secrets")[0] == "prompt_not_found"
    for text, words in (
        ("no sections", "# user"),
        ("# user\n{{ content", "line"),
        ("# user\na\n# user\nb", "twice"),
        (SMALL.replace("{{ content }}", "{{ contents }}"), "'contents'"),
    ):
        own(tmp_path, text)
        code, message = refused(library, "improver")
        assert code == "invalid_prompt_file"
        assert words in message
    own(tmp_path).write_bytes(b"\xff\xfe")
    assert refused(library, "improver")[0] == "invalid_prompt_file"


def test_an_empty_paragraph_is_left_out():
    text = '# system\n{{ tone }}\n\n# user\nA\n\n{{ "B: " ~ b if b else "" }}\n\nC\n'
    prompt = parse_prompt(text, name="n", version="v1", origin="project")
    assert prompt.render({"tone": "", "b": ""}) == type(prompt.render({"tone": "", "b": ""}))(
        system=None, user="A\n\nC"
    )
    assert prompt.render({"tone": "t", "b": "1"}).user == "A\n\nB: 1\n\nC"
    with pytest.raises(ExpressionError):
        prompt.render({})


@settings(max_examples=60, deadline=None)
@given(data=st.text())
def test_data_comes_through_as_it_is(data: str):
    prompt = parse_prompt("# user\n<a>{{ data }}</a>", name="n", version="v1", origin="project")
    assert prompt.render({"data": data}).user == f"<a>{data}</a>"


def test_ejecting_copies_the_built_in_prompt(tmp_path: Path):
    library = PromptLibrary(tmp_path)
    file = library.eject("critic")
    assert file == tmp_path / "prompts" / "critic" / "v1.md"
    assert file.read_text(encoding="utf-8") == PromptLibrary(None).find("critic").text
    file.write_text(SMALL.replace("content", "context"), encoding="utf-8")
    with pytest.raises(InvalidPipeline, match="file_exists"):
        library.eject("critic")
    library.eject("critic", overwrite=True)
    assert library.find("critic").digest == PromptLibrary(None).find("critic").digest


# -- in a plan --------------------------------------------------------------------------------------------------------------


def improve(**config: object) -> dict[str, object]:
    stage = {"id": "better", "component_type": "improver", "config": {"content": "x", **config}}
    return {"name": "p", "stages": [stage]}


def definition_of(project: Path, pipeline: dict[str, object] | None = None) -> dict[str, object]:
    (project / "flowmason.json").write_text("{}", encoding="utf-8")
    file = project / "p.pipeline.json"
    file.write_text(json.dumps(pipeline or improve()), encoding="utf-8")
    plan = open_workspace(file).plan(load(file))
    stage = plan.root.stages[0]
    return dict(Definitions(plan).of(stage).says)


def test_the_content_of_a_prompt_identifies_a_stage(tmp_path: Path):
    built_in = definition_of(tmp_path)
    assert definition_of(tmp_path) == built_in
    own(tmp_path)
    changed = definition_of(tmp_path)
    assert differences(built_in, changed) == ["prompts"]
    own(tmp_path, SMALL + " ")
    assert differences(changed, definition_of(tmp_path)) == ["prompts"]
    assert "Better" not in json.dumps(changed), "the text itself is not recorded with every run"


def test_a_missing_prompt_is_told_before_anything_runs(tmp_path: Path):
    with pytest.raises(InvalidPipeline) as caught:
        definition_of(tmp_path, improve(prompt_version="v7"))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("prompt_not_found", "/stages/0/config/prompt_version")
    own(tmp_path, "# user\n{{ oops }}")
    with pytest.raises(InvalidPipeline, match="oops"):
        definition_of(tmp_path)


def test_an_attempt_uses_the_text_that_its_plan_settled(tmp_path: Path):
    own(tmp_path)
    planned = {"improver": {"version": "v3", "text": "# user\nPlanned: {{ content }}"}}
    context = RecordingContext(project_dir=tmp_path, llm_settings={"prompts": planned})
    assert prompt_for(context, "improver").render({"content": "x"}).user == "Planned: x"
    outside = RecordingContext(project_dir=tmp_path)
    assert prompt_for(outside, "improver").render({"content": "x"}).user == "Better: x"
    with pytest.raises(PermanentError) as caught:
        prompt_for(outside, "improver", "v9")
    assert caught.value.code == "prompt_not_found"


def test_a_component_of_a_project_asks_with_its_own_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from flowmason_ray import arun
    from flowmason_ray.testing.llm_server import KEY, LlmServer

    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    own(tmp_path, "# user\nGreet {{ name }}.", name="greeting")
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "greet.py").write_text(
        "from pydantic import BaseModel\n"
        "from flowmason_ray import node\n"
        "from flowmason_ray.components.prompting import prompt_for\n\n"
        "@node(prompts=('greeting',))\n"
        "class Greet:\n"
        '    """Greets."""\n'
        "    class Input(BaseModel):\n        name: str\n"
        "    class Output(BaseModel):\n        text: str\n"
        "    async def execute(self, input, context):\n"
        "        said = prompt_for(context, 'greeting').render({'name': input.name})\n"
        "        return {'text': (await context.models.generate(said.user)).text}\n",
        encoding="utf-8",
    )
    with LlmServer() as server:
        settings = {"providers": server.providers(), "llm_settings": {"provider": "openai"}}
        (tmp_path / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
        file = tmp_path / "p.pipeline.json"
        stage = {"id": "greet", "component_type": "greet", "config": {"name": "{{ input.name }}"}}
        file.write_text(json.dumps({"name": "p", "stages": [stage]}), encoding="utf-8")
        server.says("Good day, Ada.")
        result = asyncio.run(arun(file, {"name": "Ada"}))
        assert result.status == "succeeded", result.failure
        assert result.output == {"text": "Good day, Ada."}
        assert server.requests[0].last == "Greet Ada."
