"""Real vLLM on Ray: one engine in an actor for all workers, made again when it dies, gone when the run is over."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Context, operator
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.events import Event, StageStreamed, StageSucceeded
from tests.vllm_kit import MISSING, make_model, provider, quiet_environment

pytestmark = [
    pytest.mark.ray,
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("vllm") is None, reason=MISSING),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, of which each version has others
]

TOKENS = 24


class _In(BaseModel):
    n: int
    tokens: int = TOKENS


class _Out(BaseModel):
    text: str
    input_tokens: int
    output_tokens: int
    pid: int


@operator(name="asks", cost="io", effect="pure")
class Asks:
    """Asks for four answers at once; what it tells is the first."""

    Input, Output = _In, _Out

    async def execute(self, input: _In, context: Context) -> _Out:
        answers = await asyncio.gather(
            *(
                context.models.generate(f"Item {input.n}, {k}", max_tokens=input.tokens, temperature=0, live=k == 0)
                for k in range(4)
            )
        )
        return _Out(
            text=answers[0].text,
            input_tokens=sum(answer.usage.input_tokens for answer in answers),
            output_tokens=sum(answer.usage.output_tokens for answer in answers),
            pid=os.getpid(),
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quiet_environment()
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def prepared(
    folder: Path,
    model: Path,
    n: int,
    watch: Callable[[Event], None],
    *,
    stream: bool = False,
    tokens: int = TOKENS,
    **more: Any,
) -> PreparedRun:
    """Return a run that asks for n items, four at a time, each in a worker that has a core to itself."""
    settings = {"providers": {"tiny": provider(model, **more)}}
    (folder / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
    loop = {"items": list(range(n)), "item_variable": "n", "loop_stages": ["ask"], "max_parallel": 4}
    config = {"n": "{{ n }}", "tokens": tokens}
    ask = {"id": "ask", "component_type": "asks", "config": config, "resources": {"num_cpus": 1}}
    document = {"name": "many", "stages": [{"id": "each", "component_type": "foreach", "config": loop}, ask]}
    file = folder / "many.pipeline.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return PreparedRun(file, {}, on="ray", components=[Asks], observers=[watch], stream=stream)


def keeper() -> Any:
    """Return the keeper of the engines that there are."""
    module: Any = importlib.import_module("flowmason_ray.engine.executors.ray_engines")
    ((_, found),) = module._keepers
    return found


def engines() -> list[dict[str, int]]:
    """Return what each engine says of itself."""
    ray: Any = importlib.import_module("ray")
    return ray.get(keeper().facts.remote(), timeout=60)


def family(pid: int) -> set[int]:
    """Return a process, those that it has started, and theirs."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], bool], said: str) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, said
        time.sleep(0.1)


def everything_is_given_back(pids: set[int]) -> None:
    ray: Any = importlib.import_module("ray")
    module: Any = importlib.import_module("flowmason_ray.engine.executors.ray_engines")
    assert module._keepers == []
    wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "cores are occupied")
    wait_for(lambda: not any(alive(pid) for pid in pids), "processes of the engine are left")


class Watch:
    """Acts when so many items are done."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self.left = after
        self.act = act
        self.pids: set[int] = set()
        self.facts: list[dict[str, int]] = []
        self.streamed = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStreamed) and event.path == "each[0]/ask":
            self.streamed += event.text
        if not (isinstance(event, StageSucceeded) and event.path.endswith("]/ask")):
            return
        self.left -= 1
        if self.left == 0:
            self.facts = engines()
            for each in self.facts:
                self.pids |= family(each["pid"])
            self.act()


def answers_of(result: RunResult, n: int) -> list[dict[str, Any]]:
    assert result.status == "succeeded", result.failure
    found: list[dict[str, Any]] = result.output["results"]
    assert len(found) == n
    return found


def test_all_workers_ask_one_engine(tmp_path: Path, ray_cluster: str, model: Path) -> None:
    watch = Watch(32, lambda: None)
    result = asyncio.run(
        prepared(tmp_path, model, 32, watch, stream=True, resources={"num_cpus": 1, "labels": {}}).run()
    )
    found = answers_of(result, 32)
    (engine,) = watch.facts
    assert engine["requests"] == 4 * 32
    assert engine["most_at_once"] > 4, "what different workers ask is answered together"
    workers = {each["pid"] for each in found}
    assert len(workers) > 1
    assert engine["pid"] not in workers
    assert watch.streamed == found[0]["text"]
    counted = (result.usage["calls"], result.usage["input_tokens"], result.usage["output_tokens"])
    assert counted == (
        4 * 32,
        sum(each["input_tokens"] for each in found),
        sum(each["output_tokens"] for each in found),
    )
    everything_is_given_back(watch.pids)


def test_an_engine_that_dies_is_made_again(tmp_path: Path, ray_cluster: str, model: Path) -> None:
    ends: list[int] = []

    def kill() -> None:
        (engine,) = watch.facts
        ends.append(engine["pid"])
        os.kill(engine["pid"], signal.SIGKILL)

    watch = Watch(4, kill)
    result = asyncio.run(prepared(tmp_path, model, 12, watch).run())
    found = answers_of(result, 12)
    assert all(each["output_tokens"] > 0 for each in found)
    assert ends, "it was killed"
    assert result.usage["failed_calls"] > 0
    everything_is_given_back(watch.pids)


def test_a_run_that_is_cancelled_gives_everything_back(tmp_path: Path, ray_cluster: str, model: Path) -> None:
    watch = Watch(2, lambda: run.cancel())
    run = prepared(tmp_path, model, 400, watch, tokens=200, resources={"num_cpus": 1})
    result = asyncio.run(run.run())
    assert result.status == "cancelled"
    assert len(watch.pids) > 1
    everything_is_given_back(watch.pids)


def test_what_no_node_has_is_told(tmp_path: Path, ray_cluster: str, model: Path) -> None:
    watch = Watch(1, lambda: None)
    result = asyncio.run(prepared(tmp_path, model, 1, watch, resources={"num_gpus": 8}).run())
    assert result.status == "failed"
    assert result.failure is not None
    assert result.failure.code == "infeasible_resources"
    assert "8 GPU" in result.failure.message
    assert "'tiny'" in result.failure.message
    everything_is_given_back(set())
