"""What a run on Ray survives, and how it ends where it does not: each fault on a real cluster of several nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.cli_kit import stage
from tests.cluster_kit import Nodes, Runs, runs_on, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]

COMPONENTS = '''
"""Components that wait to be hit, and note each of their calls."""

import os
import time
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel

from flowmason_ray import Actors, operator


class Asked(BaseModel):
    say: str = "begun"
    size: int = 0
    reads: Any = None
    wait_for: str | None = None
    grow_mib: int = 0


class Given(BaseModel):
    node: str
    read: int
    data: str


class Work:
    Input = Asked
    Output = Given

    def execute(self, input, context):
        folder = Path(context.project_dir)
        node = ray.get_runtime_context().get_node_id()
        with (folder / "notes.txt").open("a") as notes:
            notes.write(f"{input.say} {os.getpid()} {node} {context.idempotency_key}\\n")
        while input.wait_for and not (folder / input.wait_for).exists():
            time.sleep(0.05)
        hoard = []
        for _ in range(input.grow_mib):
            hoard.append(bytearray(os.urandom(1024)) * 1024)
            time.sleep(0.005)
        read = len(input.reads["data"]) if input.reads else 0
        return {"node": node, "read": read, "data": "x" * input.size}


@operator(effect="pure", cost="cpu")
class WorkPure(Work):
    """Does no harm."""


@operator(effect="idempotent", cost="cpu")
class WorkIdempotent(Work):
    """May be repeated with its key."""


@operator(effect="effectful", cost="cpu")
class WorkEffectful(Work):
    """Must not be repeated."""


class Held(Work):
    """Has a model."""

    def setup(self, context):
        pass


@operator(effect="pure", cost="cpu")
class HeldPure(Held):
    """Does no harm, in an actor."""


@operator(effect="idempotent", cost="cpu")
class HeldIdempotent(Held):
    """May be repeated with its key, in an actor."""


@operator(effect="pure", cost="cpu", actors=Actors(min=1, idle_s=600))
class HeldLastingly(Held):
    """Is kept ready."""


@operator(effect="pure", cost="gpu", resources={"num_cpus": 1, "num_gpus": 1}, actors=Actors(min=1, idle_s=600))
class OneOnGpu(Work):
    """Keeps a GPU."""


@operator(effect="pure", cost="gpu", resources={"num_cpus": 1, "num_gpus": 1}, actors=Actors(idle_s=600))
class OtherOnGpu(Work):
    """Needs one too."""


@operator(effect="pure", cost="cpu")
class DiesInSetup(Work):
    """Has a model that ends the process that loads it."""

    def setup(self, context):
        with (Path(context.project_dir) / "notes.txt").open("a") as notes:
            notes.write("setup\\n")
        os._exit(1)
'''

LARGE = 2_000_000
"""Bytes of a value that is far too large for the log."""
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
OTHER: dict[str, Any] = {"labels": {"kind": "other"}}
"""The resources of stages that are to run on nodes that can be killed."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes(num_cpus=2)
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def runs(nodes: Nodes, tmp_path: Path) -> Iterator[Runs]:
    with runs_on(nodes, tmp_path, COMPONENTS) as runs:
        yield runs


def other(nodes: Nodes, **more: Any) -> str:
    """Add a node that can be killed."""
    return nodes.add(num_cpus=2, labels={"kind": "other"}, **more)


def work(id: str, effect: str, *after: str, **more: Any) -> dict[str, Any]:
    config = {"say": id, **more.pop("config", {})}
    return stage(id, f"work_{effect}", after, config=config, **more)


def bucket(endpoint: str) -> str:
    """Make a bucket, if it is not there; return its name."""
    with urlopen(Request(f"{endpoint}/runs", method="PUT")):
        return "runs"


def pid_in(note: str) -> int:
    return int(note.split()[1])


def test_a_worker_process_is_killed(nodes: Nodes, runs: Runs) -> None:
    other(nodes)  # so that there is room for all of them at a time
    effects = ("pure", "idempotent", "effectful")
    process = runs.start(
        [work(effect, effect, config={"wait_for": "go"}, on_error="continue") for effect in effects],
        output={"ended": "{{ [stages.pure.read, stages.idempotent.read] }}", "error": "{{ stages.effectful.error }}"},
    )
    for effect in effects:
        [note] = runs.noted(effect)
        os.kill(pid_in(note), signal.SIGKILL)
    for effect in ("pure", "idempotent"):
        runs.noted(effect, times=2)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"]["ended"] == [0, 0]
    assert done["output"]["error"]["code"] == "worker_died"
    notes = [note.split() for note in runs.notes()]
    assert [word for word, *_ in notes].count("effectful") == 1
    assert len({key for word, _, _, key in notes if word == "idempotent"}) == 1  # one key for one piece of work


def test_a_node_is_killed_while_stages_run_on_it_and_values_lie_on_it(nodes: Nodes, runs: Runs) -> None:
    """A pure value comes back by lineage, one that has a copy from that, and both attempts go on elsewhere."""
    node = other(nodes)
    reads = {"data": "{{ stages.pure.data }}"}
    process = runs.start(
        [
            work("pure", "pure", config={"size": LARGE}, resources=OTHER),
            work("kept", "effectful", config={"size": LARGE}, resources=OTHER),
            work("runs", "pure", "kept", "pure", config={"wait_for": "go"}, resources=OTHER),
            work("first", "effectful", "runs", config={"reads": reads}),
            work("second", "pure", "runs", config={"reads": {"data": "{{ stages.kept.data }}"}}),
        ],
        output={"first": "{{ stages.first.read }}", "second": "{{ stages.second.read }}"},
    )
    runs.noted("runs")
    other(nodes)
    nodes.kill(node)
    runs.noted("runs", times=2)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == {"first": LARGE, "second": LARGE}
    assert [n.split()[0] for n in runs.notes()].count("kept") == 1
    assert [n.split()[0] for n in runs.notes()].count("first") == 1


def test_a_node_is_killed_under_an_effect(nodes: Nodes, runs: Runs) -> None:
    """Nobody knows how far it came: only what says so is repeated, although there is room for both."""
    node = other(nodes)
    retry: dict[str, Any] = {"max_attempts": 3, "initial_delay_ms": 1}
    more: dict[str, Any] = {"config": {"wait_for": "go"}, "resources": OTHER, "on_error": "continue"}
    process = runs.start(
        [
            work("once", "effectful", retry=retry, **more),
            work("again", "effectful", retry={**retry, "retry_on": ["worker_died"]}, **more),
        ],
        output="{{ stages.again.node }}",
    )
    runs.noted("once")
    runs.noted("again")
    another = other(nodes)
    nodes.kill(node)
    runs.noted("again", times=2)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == another
    error = done["stages"]["once"]["error"]
    assert (error["code"], error["attempts"]) == ("worker_died", 1)
    assert [n.split()[0] for n in runs.notes()].count("once") == 1


def test_an_object_is_lost_that_has_no_copy(nodes: Nodes, runs: Runs) -> None:
    """Not recorded, so no copies: what is idempotent is made again with its key, what is effectful is not."""
    node = other(nodes)
    process = runs.start(
        [
            work("again", "idempotent", config={"size": LARGE}, resources=OTHER),
            work("once", "effectful", config={"size": LARGE}, resources=OTHER),
            work("waits", "pure", "again", "once", config={"wait_for": "go"}),
            work("reads", "pure", "waits", config={"reads": "{{ stages.again }}"}),
            work("lacks", "pure", "reads", config={"reads": "{{ stages.once }}"}, on_error="continue"),
        ],
        "--no-store",
        output={"read": "{{ stages.reads.read }}", "error": "{{ stages.lacks.error }}"},
    )
    runs.noted("waits")
    other(nodes)
    nodes.kill(node)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"]["read"] == LARGE
    assert done["output"]["error"]["code"] == "value_lost"
    assert "effectful" in done["output"]["error"]["message"]
    again = [n.split() for n in runs.notes() if n.startswith("again")]
    assert len(again) == 2
    assert again[0][3] == again[1][3]
    assert [n.split()[0] for n in runs.notes()].count("once") == 1


def test_the_coordinator_is_killed_and_the_run_is_resumed(runs: Runs) -> None:
    process = runs.start(
        [
            work("large", "pure", config={"size": LARGE}),
            work("waits", "idempotent", "large", config={"wait_for": "go"}),
            work("reads", "pure", "waits", config={"reads": "{{ stages.large }}"}),
        ],
        output="{{ stages.reads.read }}",
    )
    runs.noted("waits")
    process.kill()
    process.communicate()
    runs.say("go")
    done = runs.end(runs.begin("resume", "last", "--json"))
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == LARGE
    words = [n.split()[0] for n in runs.notes()]
    assert words.count("large") == 1
    assert words.count("waits") == 2
    assert len({n.split()[3] for n in runs.notes() if n.startswith("waits")}) == 1


def test_the_node_of_a_detached_coordinator_is_lost(
    nodes: Nodes, runs: Runs, postgres_url: str, s3_endpoint: str
) -> None:
    """What the run needs lies in a database and a bucket, so it goes on on another node, and repeats no effect."""
    elsewhere = {
        "FLOWMASON_STORE": postgres_url,
        "FLOWMASON_BLOBS": f"s3://{bucket(s3_endpoint)}/values",
        "AWS_ENDPOINT_URL": s3_endpoint,
        **KEYS,
    }
    for _ in range(2):
        other(nodes)
    runs.write(
        [
            work("sent", "effectful", config={"size": LARGE}),
            work("waits", "pure", "sent", config={"wait_for": "go", "reads": "{{ stages.sent }}"}),
            work("last", "effectful", "waits", config={"reads": "{{ stages.sent }}"}),
        ],
        output="{{ stages.last.read }}",
    )
    for _ in range(20):  # where a coordinator goes is the cluster's affair
        handed = runs.begin("run", "p.pipeline.json", "--on", "ray", "--detach", "-q", **elsewhere)
        run = handed.communicate()[0].strip()
        node = until(lambda run=run: nodes.node_of(f"coordinator {run}"))
        if node != nodes.head:
            break
        runs.begin("cancel", run, **elsewhere).communicate()
        runs.forget()
    else:
        pytest.fail("every coordinator went to the head")
    runs.noted("waits")
    until(lambda: '"stage_succeeded"' in runs.begin("runs", "events", run, **elsewhere).communicate()[0])
    nodes.kill(node)
    until(lambda: nodes.node_of(f"coordinator {run}") not in (None, node))
    runs.say("go")
    watching = runs.begin("runs", "watch", run, "-q", **elsewhere)
    assert runs.end(watching) == LARGE
    words = [n.split()[0] for n in runs.notes()]
    assert (words.count("sent"), words.count("last")) == (1, 1)


def test_an_actor_dies_in_its_setup(runs: Runs) -> None:
    done = runs.run([stage("dies", "dies_in_setup", on_error="continue"), work("lives", "pure", "dies")])
    assert done["status"] == "succeeded", done.get("error")
    assert done["stages"]["dies"]["error"]["code"] == "component_setup_failed"
    assert "died before its setup() had ended" in done["stages"]["dies"]["error"]["message"]
    assert [n.split()[0] for n in runs.notes()] == ["setup", "lives"]


def test_a_process_is_killed_in_which_an_actor_runs(nodes: Nodes, runs: Runs) -> None:
    """Ray repeats nothing that runs in an actor; what may be repeated is repeated nevertheless, under the same key."""
    effects = ("pure", "idempotent")
    process = runs.start(
        [stage(effect, f"held_{effect}", config={"say": effect, "wait_for": "go"}) for effect in effects],
        output="{{ [stages.pure.read, stages.idempotent.read] }}",
    )
    for effect in effects:
        [note] = runs.noted(effect)
        os.kill(pid_in(note), signal.SIGKILL)
    for effect in effects:
        runs.noted(effect, times=2)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == [0, 0]
    assert len({n.split()[3] for n in runs.notes() if n.startswith("idempotent")}) == 1


def test_the_node_of_an_actor_is_killed(nodes: Nodes, runs: Runs) -> None:
    node = other(nodes)
    process = runs.start(
        [stage("held", "held_pure", config={"say": "held", "wait_for": "go"}, resources=OTHER)],
        output="{{ stages.held.node }}",
    )
    runs.noted("held")
    another = other(nodes)
    nodes.kill(node)
    runs.noted("held", times=2)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == another


def test_an_actor_gives_a_gpu_back_that_others_wait_for(nodes: Nodes, runs: Runs) -> None:
    """Also one that is kept ready on purpose; cores are free all the time."""
    node = other(nodes, num_gpus=1)
    stages = [
        stage("one", "one_on_gpu", config={"say": "one"}),
        stage("next", "other_on_gpu", ["one"], config={"say": "next"}),
        stage("last", "one_on_gpu", ["next"], config={"say": "last"}),
    ]
    done = runs.run(stages, output="{{ [stages.one.node, stages.next.node, stages.last.node] }}")
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == [node] * 3
    assert len({pid_in(note) for note in runs.notes()}) == 3


def test_cores_that_are_free_on_two_nodes_are_no_room_for_what_needs_them_on_one(nodes: Nodes, runs: Runs) -> None:
    node = other(nodes)
    stages = [
        stage("held", "held_lastingly", config={"say": "held"}, resources=OTHER),
        work("whole", "pure", "held", resources={**OTHER, "num_cpus": 2}),
    ]
    done = runs.run(stages, output="{{ stages.whole.node }}")
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == node


def test_a_node_is_drained(nodes: Nodes, runs: Runs) -> None:
    """What runs there may end, what comes later goes elsewhere, and values that lie there are not lost."""
    node = other(nodes)
    process = runs.start(
        [
            work("large", "effectful", config={"size": LARGE}, resources=OTHER),
            work("runs", "effectful", "large", config={"wait_for": "go"}, resources=OTHER),
            work("later", "pure", "runs", config={"reads": "{{ stages.large }}"}, resources=OTHER),
        ],
        output={"read": "{{ stages.later.read }}", "node": "{{ stages.later.node }}"},
    )
    runs.noted("runs")
    another = other(nodes)
    assert nodes.drain(node, seconds=600)
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == {"read": LARGE, "node": another}


def test_the_object_store_is_full(runs: Runs) -> None:
    """Values of twice the store's size pass through it: Ray spills to the disk, and nothing is lost."""
    size, count = 20_000_000, 12
    stages = [work(f"v{i}", "pure", config={"size": size}) for i in range(count)]
    reads = [work(f"r{i}", "pure", config={"reads": "{{ stages.v" + str(i) + " }}"}) for i in range(count)]
    last = {"sum": "{{ " + " + ".join(f"stages.r{i}.read" for i in range(count)) + " }}"}
    done = runs.run([*stages, *reads], "--no-store", output=last)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"] == {"sum": size * count}


def test_the_only_node_that_could_run_a_stage_dies(nodes: Nodes, runs: Runs) -> None:
    """Nothing waits for ever without a word."""
    node = other(nodes)
    process = runs.start([work("a", "pure", config={"wait_for": "go"}, resources=OTHER)])
    runs.noted("a")
    nodes.kill(node)
    done = runs.end(process)
    assert done["error"]["code"] == "infeasible_resources"


def test_a_component_that_leaks_memory(runs: Runs) -> None:
    """It ends with a clear error, and takes nobody with it."""
    stages = [
        work("leaks", "effectful", config={"grow_mib": 4000}, resources={"memory_mib": 50}, on_error="continue"),
        work("lives", "pure", "leaks", config={"size": 3}),
        work("beside", "pure", config={"wait_for": "go"}),
    ]
    process = runs.start(
        stages, output={"error": "{{ stages.leaks.error }}", "lives": "{{ stages.lives.data }}{{ stages.beside.data }}"}
    )
    runs.noted("lives")
    runs.say("go")
    done = runs.end(process)
    assert done["status"] == "succeeded", done.get("error")
    assert done["output"]["error"]["code"] == "out_of_memory"
    assert "its stage asks for 50 MiB" in done["output"]["error"]["message"]
    assert done["output"]["lives"] == "xxx"


def test_cancelling_gives_everything_back(nodes: Nodes, runs: Runs) -> None:
    config = {"items": [1, 2], "loop_stages": ["item"], "max_parallel": 2}
    each = stage("each", "foreach", config=config, placement={"gang": True})
    process = runs.start(
        [
            each,
            work("item", "pure", config={"wait_for": "never"}),
            work("queued", "effectful", config={"wait_for": "never"}),
        ]
    )
    runs.noted("item", times=2)
    assert not nodes.all_free()
    cancelled = runs.begin("cancel", "last")
    assert runs.end(process)["status"] == "cancelled"
    cancelled.communicate()
    until(nodes.all_free)


def gang(*branches: str, **more: Any) -> list[dict[str, Any]]:
    """Return a gang of one stage per branch, each of which fills a node that can be killed."""
    config = {"branches": [[branch] for branch in branches]}
    resources = {**OTHER, "num_cpus": 2}
    return [
        stage("gang", "parallel", config=config, placement={"gang": True}, **more),
        *(work(branch, "pure", config={"wait_for": "go"}, resources=resources) for branch in branches),
    ]


def test_a_gang_that_loses_a_node_and_has_no_room_any_more(nodes: Nodes, runs: Runs) -> None:
    """Each of its stages could run on the node that is left, both at a time could not: that is said."""
    lost, _ = other(nodes), other(nodes)
    process = runs.start(gang("left", "right"))
    begun = {note.split()[2]: note.split()[0] for word in ("left", "right") for note in runs.noted(word)}
    nodes.kill(lost)
    done = runs.end(process)
    assert done["error"]["code"] == "infeasible_resources"
    assert done["error"]["stage"] == begun[lost], "who still has its place is not blamed"
    assert "room for 2 at the same time" in done["error"]["message"]


def test_a_gang_that_loses_a_node_gets_one_that_comes_later(nodes: Nodes, runs: Runs) -> None:
    runs.settings(ray={"wait_for_resources_s": 140})
    lost, _ = other(nodes), other(nodes)
    process = runs.start(gang("left", "right"), output="{{ stages.gang.results }}")
    begun = {note.split()[2]: note.split()[0] for word in ("left", "right") for note in runs.noted(word)}
    nodes.kill(lost)
    until(lambda: "It waits for the cluster to grow" in runs.begin("runs", "logs", "last").communicate()[0])
    came = other(nodes)
    [*_, note] = runs.noted(begun[lost], times=2)
    runs.say("go")
    assert note.split()[2] == came
    assert runs.end(process)["status"] == "succeeded"
    assert [n.split()[0] for n in runs.notes()].count(begun[lost]) == 2
