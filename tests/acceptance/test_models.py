"""Runs that ask models: a project, the command line and a server that says exactly what it counted."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.events import Event, StageStreamed
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.resuming import prepare_resume
from flowmason_ray.stores.memory import MemoryRunStore
from flowmason_ray.testing.llm_server import KEY, LlmServer
from tests.cli_kit import Fm
from tests.llm_kit import make_project, model_server

pytest.importorskip("openai")


@pytest.fixture
def server() -> Any:
    with model_server() as serving:
        yield serving


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def fm(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Fm:
    monkeypatch.chdir(pipeline.parent)
    return Fm(monkeypatch, pipeline.parent)


def use(server: LlmServer, monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    """Let the environment name the server: one variable says where, one the key."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("FLOWMASON_MODEL", "gpt-test")
    for name, value in more.items():
        monkeypatch.setenv(name, value)


def project(pipeline: Path, **settings: Any) -> None:
    (pipeline.parent / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")


def test_a_run_counts_exactly_what_the_server_did(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(server, monkeypatch)
    server.fails(429, retry_after="0")
    done = fm("run", str(pipeline), "-i", '{"items": ["a", "b c", "d"]}', "--json")
    document = done.json
    assert document["status"] == "succeeded", done.err
    answered = [each for each in server.requests if each.at]
    usage = document["usage"]
    assert (usage["calls"], usage["failed_calls"]) == (4, 1)
    assert usage["input_tokens"] == sum(each.tokens_in for each in answered[1:])
    assert usage["cost_usd"] is None
    assert usage["unpriced_calls"] == 3

    cost = fm("runs", "cost", document["run_id"], "--json").json
    assert cost["total"]["input_tokens"] == usage["input_tokens"]
    assert list(cost["by_stage"]) == ["each[*]/ask"]
    assert cost["by_stage"]["each[*]/ask"]["framework_s"] >= 0
    by_model = fm("runs", "cost", "last", "--by", "model", "--json").json
    assert list(by_model["by_model"]) == ["openai/gpt-test"]
    assert "price not known" in fm("runs", "show", "last").out


def test_what_attempts_took_is_split_into_the_models_time_waiting_and_ours(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes its time, and answers one after the other: the others wait for the first."""
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    project(pipeline, providers={"slow": server.providers(limits={"concurrency": 1})["openai"]})
    written = json.loads(pipeline.read_text(encoding="utf-8"))
    written["stages"][0]["config"]["max_parallel"] = 4
    pipeline.write_text(json.dumps(written), encoding="utf-8")
    server.says("first", wait_s=2.0)
    server.wait_s = 0.1
    done = fm("run", str(pipeline), "-i", '{"items": [1, 2, 3, 4]}', "--json")
    assert done.json["status"] == "succeeded", done.err
    stage = fm("runs", "cost", "last", "--json").json["by_stage"]["each[*]/ask"]
    assert stage["model_s"] >= 2.0 + 3 * 0.1
    assert stage["wait_s"] >= 0.1
    assert stage["framework_s"] > 0
    assert stage["attempts_s"] == pytest.approx(stage["model_s"] + stage["wait_s"] + stage["framework_s"], abs=1e-4)


def test_sound_is_in_what_a_run_cost(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    prices = {"*": {"input": 1, "audio_hour": 0.36, "characters": 15}}
    project(pipeline, providers={"sound": server.providers(prices=prices)["openai"]})
    server.says("Hello there.", more={"usage": {"type": "duration", "seconds": 90}})
    stages = [
        {"id": "hear", "component_type": "transcriber", "config": {"audio_base64": "UklGRg=="}},
        {"id": "say", "component_type": "text_to_speech", "config": {"text": "{{ stages.hear.text }}"}},
    ]
    (pipeline.parent / "sound.pipeline.json").write_text(json.dumps({"name": "Sound", "stages": stages}))
    assert fm("run", "sound.pipeline.json", "-q").code == 0
    cost = fm("runs", "cost", "last", "--json").json
    assert (cost["total"]["audio_s"], cost["total"]["characters"]) == (90, 12)
    assert cost["by_stage"]["hear"]["cost_usd"] == pytest.approx(0.009)
    assert cost["by_stage"]["say"]["cost_usd"] == pytest.approx(12 * 15e-6)
    page = fm("runs", "cost", "last").out
    assert "LISTENED" in page
    assert "1 min 30 s of sound, 12 characters spoken in 2 calls" in page


def test_a_budget_in_dollars_takes_what_will_be_counted(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price for tokens is none for characters: the speech could not be paid for out of the budget."""
    monkeypatch.setenv("TEST_LLM_KEY", KEY)
    project(pipeline, providers={"sound": server.providers(prices={"*": {"input": 1}})["openai"]})
    stages = [{"id": "say", "component_type": "text_to_speech", "config": {"text": "Hello."}}]
    (pipeline.parent / "sound.pipeline.json").write_text(json.dumps({"name": "Sound", "stages": stages}))
    done = fm("run", "sound.pipeline.json", "--max-cost-usd", "1", "--json").json
    assert done["error"]["code"] == "price_unknown"
    assert not server.requests


def test_keys_are_nowhere(fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(server, monkeypatch)
    server.says(f"The key is {KEY}.")
    server.fails(400, message=f"what is {KEY}?")
    done = fm("run", str(pipeline), "-i", '{"items": ["a", "b"]}', "--stream")
    listed = fm("providers", "list", "--json")
    shown = done.out + done.err + listed.out
    assert "The key is ***" in done.err
    shown = shown.replace(f'"content":"The key is {KEY}."', "")  # the result itself is the caller's, as with secrets
    kept = b"".join(each.read_bytes() for each in (pipeline.parent / ".flowmason").rglob("*") if each.is_file())
    assert KEY not in shown
    assert KEY.encode() not in kept


def test_a_budget_of_tokens_stops_the_run(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(server, monkeypatch)
    given = json.dumps({"items": list(range(50))})
    done = fm("run", str(pipeline), "-i", given, "--max-tokens", "30", "--json")
    document = done.json
    assert done.code == 1
    assert document["error"]["code"] == "budget_exceeded"
    assert len(server.requests) < 50


def test_a_budget_ends_a_stage_that_asks_often(server: LlmServer, pipeline: Path) -> None:
    """Not only when it reports: it sends eight requests of 384 tokens each."""
    project(pipeline, providers={"openai": server.providers()["openai"]})
    stage = {"id": "vectors", "component_type": "embedder", "config": {"texts": "{{ input.texts }}"}}
    schema = {"type": "object", "properties": {"texts": {"type": "array"}}}
    data = {"name": "Vectors", "input_schema": schema, "stages": [stage]}
    (pipeline.parent / "vectors.pipeline.json").write_text(json.dumps(data), encoding="utf-8")
    texts = [f"text number {n}" for n in range(1000)]
    result = run(pipeline.parent / "vectors.pipeline.json", {"texts": texts}, max_tokens=500)
    assert result.failure is not None
    assert result.failure.code == "budget_exceeded", result.failure.message
    assert len(server.requests) == 2
    assert result.usage["input_tokens"] == 2 * 384
    done = run(pipeline.parent / "vectors.pipeline.json", {"texts": texts}, max_tokens=5000)
    assert done.status == "succeeded", "another run has a budget of its own"


def test_a_budget_in_dollars_takes_prices(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(server, monkeypatch)
    given = ("-i", '{"items": [1, 2, 3, 4, 5, 6, 7, 8, 9]}', "--max-cost-usd", "0.02", "--json")
    done = fm("run", str(pipeline), *given).json
    assert done["error"]["code"] == "price_unknown"
    assert not server.requests

    settings = server.providers(prices={"gpt-test": {"input": 1000, "output": 1000}}, api_key={"env": "OPENAI_API_KEY"})
    project(pipeline, providers={"priced": settings["openai"]})
    done = fm("run", str(pipeline), *given).json
    assert done["error"]["code"] == "budget_exceeded"
    assert done["usage"]["cost_usd"] == pytest.approx(0.024)


def test_the_pipelines_own_budget_holds_until_somebody_says_otherwise(server: LlmServer, pipeline: Path) -> None:
    data = {**json.loads(pipeline.read_text(encoding="utf-8")), "budget": {"max_tokens": 10}}
    pipeline.write_text(json.dumps(data), encoding="utf-8")
    project(pipeline, providers={"openai": server.providers()["openai"]})
    stopped = run(pipeline, {"items": [1, 2, 3]})
    assert stopped.failure is not None
    assert stopped.failure.code == "budget_exceeded"
    assert run(pipeline, {"items": [1, 2, 3]}, max_tokens=1000).status == "succeeded"


def test_a_replay_decides_the_same_about_the_budget(server: LlmServer, pipeline: Path) -> None:
    project(pipeline, providers={"openai": server.providers()["openai"]})
    events: list[Event] = []
    result = run(pipeline, {"items": list(range(9))}, max_tokens=30, observers=[events.append], store=MemoryRunStore())
    assert result.failure is not None
    from flowmason_ray.wiring import load, open_workspace

    state = RunState(open_workspace(pipeline).plan(load(pipeline)))
    told = [output for event in events if event.stimulus for output in state.handle(event)]
    assert state.ended
    assert [getattr(o, "failure", None) for o in told if type(o).__name__ == "RunFailed"] == [result.failure]


def test_an_edited_model_runs_again_and_the_same_does_not(server: LlmServer, pipeline: Path) -> None:
    provider = server.providers()["openai"]
    project(pipeline, providers={"openai": provider})
    store = MemoryRunStore()
    from flowmason_ray.reusing.asking import Reuse

    first = run(pipeline, {"items": [1, 2]}, store=store)
    asked = len(server.requests)
    again = run(pipeline, {"items": [1, 2]}, store=store, reuse=Reuse(run=first.run_id))
    assert (again.output, len(server.requests), again.usage) == (first.output, asked, {})
    project(pipeline, providers={"openai": {**provider, "default_model": "gpt-other"}})
    other = run(pipeline, {"items": [1, 2]}, store=store, reuse=Reuse(run=first.run_id))
    assert len(server.requests) == asked + 2
    assert [each["model"] for each in other.output["results"]] == ["gpt-other"] * 2


def test_texts_are_shown_as_they_grow_only_to_who_asks(server: LlmServer, pipeline: Path) -> None:
    project(pipeline, providers={"openai": server.providers()["openai"]})
    events: list[Event] = []
    run(pipeline, {"items": ["x"]}, observers=[events.append])
    assert not [each for each in events if isinstance(each, StageStreamed)]
    run(pipeline, {"items": ["x"]}, observers=[events.append], stream=True)
    shown = [each for each in events if isinstance(each, StageStreamed)]
    assert "".join(each.text for each in shown) == "You said: say x please"
    assert {each.path for each in shown} == {"each[0]/ask"}


def test_texts_are_shown_as_they_grow_when_a_run_goes_on(
    fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(server, monkeypatch)
    paused = fm("run", str(pipeline), "-i", '{"items": ["x"]}', "-q")
    assert paused.code == 0, paused.err
    words = ("resume", "last", "--pipeline", str(pipeline), "--force", "each")
    assert "You said" not in fm(*words).err
    assert "You said: say x please" in fm(*words, "--stream").err

    async def where_it_was() -> list[Event]:
        store = MemoryRunStore()
        stopped = PreparedRun(pipeline, {"items": ["y"]}, store=store)
        stopped.pause()
        assert (await stopped.run()).status == "paused"
        events: list[Event] = []
        again = await prepare_resume(store, "last", observers=[events.append], stream=True)
        (await again.run()).raise_for_status()
        return events

    shown = [each for each in asyncio.run(where_it_was()) if isinstance(each, StageStreamed)]
    assert "".join(each.text for each in shown) == "You said: say y please"


def test_without_a_provider_a_run_says_how_to_get_one(pipeline: Path) -> None:
    result = run(pipeline, {"items": ["x"]})
    assert result.failure is not None
    assert result.failure.code == "provider_not_configured"
    assert "ANTHROPIC_API_KEY" in result.failure.message


def test_the_stages_retry_takes_over_and_usage_has_every_attempt(server: LlmServer, pipeline: Path) -> None:
    data = json.loads(pipeline.read_text(encoding="utf-8"))
    data["stages"][1]["retry"] = {"max_attempts": 2, "initial_delay_ms": 1}
    pipeline.write_text(json.dumps(data), encoding="utf-8")
    project(pipeline, providers={"openai": {**server.providers()["openai"], "max_retries": 0}})
    server.says("one two three", cut_after=2)
    result = run(pipeline, {"items": ["x"]})
    assert result.status == "succeeded"
    assert (result.usage["calls"], result.usage["failed_calls"], result.usage["estimated_calls"]) == (2, 1, 1)
    assert result.stages["each[0]/ask"].attempts == 2


def test_what_a_stage_used_before_its_time_was_over_counts(server: LlmServer, pipeline: Path) -> None:
    """Each attempt is stopped in the middle of its answer: the budget sees what that took, and ends the repeating."""
    project(pipeline, providers={"openai": server.providers()["openai"]})
    assert (
        run(pipeline, {"items": ["warm up"]}).status == "succeeded"
    )  # making a client takes longer than an attempt may
    data = json.loads(pipeline.read_text(encoding="utf-8"))
    data["stages"][1] |= {"timeout_ms": 3000, "retry": {"max_attempts": 3, "initial_delay_ms": 1}}
    pipeline.write_text(json.dumps(data), encoding="utf-8")
    for _ in range(3):
        server.says("word " * 400, token_s=0.05)
    result = run(pipeline, {"items": ["x"]}, max_tokens=5)
    assert result.failure is not None
    assert result.failure.code == "budget_exceeded", result.failure.message
    usage = result.usage
    assert usage["calls"] == usage["failed_calls"] == usage["estimated_calls"] >= 1


def test_who_is_asked_can_be_tried(fm: Fm, server: LlmServer, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(server, monkeypatch)
    server.says("ready")
    done = fm("providers", "check")
    assert done.out.startswith("openai (gpt-test) says 'ready': 5 + 1 tokens"), done.err
    monkeypatch.setenv("OPENAI_API_KEY", "wrong-key")
    done = fm("providers", "check")
    assert "provider_refused_key" in done.err
    assert done.code != 0
    assert "Traceback" not in done.err


@pytest.mark.ray
@pytest.mark.timeout(300)  # every worker imports an SDK first
def test_on_ray_it_is_the_same(
    server: LlmServer, pipeline: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(pipeline, providers={"openai": {**server.providers()["openai"], "prices": {"*": {"input": 1000}}}})
    events: list[Event] = []
    given = {"items": ["a", "b c"]}
    result = run(pipeline, given, on="ray", observers=[events.append], stream=True, max_tokens=1000)
    assert result.status == "succeeded", result.failure
    assert result.usage["input_tokens"] == sum(each.tokens_in for each in server.requests)
    assert result.usage["cost_usd"] == pytest.approx(result.usage["input_tokens"] / 1000)
    assert any(isinstance(each, StageStreamed) for each in events)
    stopped = run(pipeline, {"items": list(range(30))}, on="ray", max_tokens=12)
    assert stopped.failure is not None
    assert stopped.failure.code == "budget_exceeded"


@pytest.mark.ray
@pytest.mark.timeout(300)  # every worker imports an SDK first
def test_on_ray_all_workers_keep_one_rate(server: LlmServer, pipeline: Path, ray_cluster: str) -> None:
    data = json.loads(pipeline.read_text(encoding="utf-8"))
    data["stages"][0]["config"]["max_parallel"] = 8
    pipeline.write_text(json.dumps(data), encoding="utf-8")
    project(pipeline, providers={"openai": {**server.providers()["openai"], "limits": {"rpm": 600}}})
    result = run(pipeline, {"items": list(range(40))}, on="ray")
    assert result.status == "succeeded", result.failure
    times = sorted(each.at for each in server.requests)
    # Ten may come at once, and ten a second after that, whichever worker they come from. They are seen when they arrive: the
    # eight that were under way when the first of a row arrived may have been let through before.
    for first, began in enumerate(times):
        for last, ended in enumerate(times[first:], first):
            assert last - first + 1 <= 8 + 10 + 10 * (ended - began) + 1, times


def _tokens_of(model: Path, items: int) -> int:
    """Count with llama.cpp itself what the model reads for so many items."""
    library: Any = importlib.import_module("llama_cpp")
    llama = library.Llama(model_path=str(model), vocab_only=True, verbose=False)
    try:
        chat = "<|im_start|>user\nsay {} please<|im_end|>\n<|im_start|>assistant\n"
        return sum(len(llama.tokenize(chat.format(n).encode(), special=True)) for n in range(items))
    finally:
        llama.close()


# -- a thousand items over a real model ---------------------------------------------------------------------------------------


@pytest.mark.llama
def test_a_thousand_items_over_a_real_model(pipeline: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: 'make llama' does it", exc_type=ImportError)
    from tests.llama_kit import make_model

    make_model(pipeline.parent / "tiny.gguf")
    data = json.loads(pipeline.read_text(encoding="utf-8"))
    data["stages"][0]["config"]["max_parallel"] = 16
    pipeline.write_text(json.dumps(data), encoding="utf-8")
    provider = {"type": "llama_cpp", "model_path": "tiny.gguf", "context_tokens": 256, "limits": {"rpm": 12_000}}
    project(pipeline, providers={"tiny": provider}, llm_settings={"max_tokens": 2, "seed": 1})
    events: list[Event] = []
    result = run(pipeline, {"items": list(range(1000))}, observers=[events.append], stream=True)
    assert result.status == "succeeded", result.failure
    usage = result.usage
    assert usage["calls"] == 1000
    assert usage["input_tokens"] == _tokens_of(pipeline.parent / "tiny.gguf", 1000)
    assert 1900 <= usage["output_tokens"] <= 2000, "nearly all say two tokens; some end before"
    assert "estimated_calls" not in usage
    # Two hundred a second, and two hundred may come at once: the other eight hundred take four seconds.
    assert result.duration_s >= 3.9
    assert sum(1 for each in events if isinstance(each, StageStreamed)) >= 1000
    texts = [each["content"] for each in result.output["results"]]
    assert len(texts) == 1000
