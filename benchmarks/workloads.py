"""The workloads of the engine's benchmarks: graphs, written down once and run by every contender.

a  a chain of 200 stages that do nothing
b  one stage, 500 after it, one after those
c  1,000 stages in 10 layers, each on 3 of the layer before
d  1 MB from one stage to 100
e  100 independent stages of about 20 ms of pure Python
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flowmason_ray import operator

SPIN_ROUNDS = 600_000
"""About 20 ms of pure Python on a core of 2026 under Python 3.11."""
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Graph:
    """`nodes` maps each node, in an order that can be run, to (kind, the nodes it reads)."""

    name: str
    nodes: Mapping[str, tuple[str, tuple[str, ...]]]

    def __len__(self) -> int:
        return len(self.nodes)


def graph(name: str, scale: int = 1) -> Graph:
    """Return a workload; `scale` multiplies its width (its length for the chain)."""
    nodes: dict[str, tuple[str, tuple[str, ...]]] = {}
    if name == "a":
        for i in range(200 * scale):
            nodes[f"n{i}"] = ("noop", (f"n{i - 1}",) if i else ())
    elif name == "b":
        nodes["first"] = ("noop", ())
        for i in range(500 * scale):
            nodes[f"n{i}"] = ("noop", ("first",))
        nodes["last"] = ("noop", tuple(f"n{i}" for i in range(500 * scale)))
    elif name == "c":
        width = 100 * scale
        for layer in range(10):
            for i in range(width):
                above = tuple(f"n{layer - 1}_{(i + k) % width}" for k in range(3)) if layer else ()
                nodes[f"n{layer}_{i}"] = ("noop", above)
    elif name == "d":
        nodes["first"] = ("megabyte", ())
        for i in range(100 * scale):
            nodes[f"n{i}"] = ("size", ("first",))
    elif name == "e":
        for i in range(100 * scale):
            nodes[f"n{i}"] = ("spin", ())
    else:
        raise ValueError(name)
    return Graph(name, nodes)


def compute(kind: str, values: list[Any]) -> Any:
    """Do what a node does: the same work for every contender."""
    if kind == "noop":
        return len(values)
    if kind == "megabyte":
        return "x" * MEGABYTE
    if kind == "size":
        return len(values[0])
    total = 0
    for i in range(SPIN_ROUNDS):
        total += i & 7
    return total


class _Input(BaseModel):
    values: list[Any] = []


class _Output(BaseModel):
    value: Any = None


@operator(name="bench_noop", effect="pure", cost="trivial")
class BenchNoop:
    Input, Output = _Input, _Output

    async def execute(self, input: _Input, context: object) -> _Output:
        return _Output(value=compute("noop", input.values))


@operator(name="bench_megabyte", effect="pure", cost="trivial")
class BenchMegabyte:
    Input, Output = _Input, _Output

    async def execute(self, input: _Input, context: object) -> _Output:
        return _Output(value=compute("megabyte", input.values))


@operator(name="bench_size", effect="pure", cost="trivial")
class BenchSize:
    Input, Output = _Input, _Output

    async def execute(self, input: _Input, context: object) -> _Output:
        return _Output(value=compute("size", input.values))


@operator(name="bench_spin", effect="pure", cost="cpu")
class BenchSpin:
    Input, Output = _Input, _Output

    def execute(self, input: _Input, context: object) -> _Output:
        return _Output(value=compute("spin", input.values))


@operator(name="bench_noop_cpu", effect="pure", cost="cpu")
class BenchNoopCpu(BenchNoop):
    """Declared to compute; only measuring tells that it is quick."""


@operator(name="bench_megabyte_cpu", effect="pure", cost="cpu")
class BenchMegabyteCpu(BenchMegabyte):
    """Declared to compute."""


@operator(name="bench_size_cpu", effect="pure", cost="cpu")
class BenchSizeCpu(BenchSize):
    """Declared to compute."""


COMPONENTS = (BenchNoop, BenchMegabyte, BenchSize, BenchSpin, BenchNoopCpu, BenchMegabyteCpu, BenchSizeCpu)


def pipeline(workload: Graph, *, fuse: str = "auto", declare: str = "trivial") -> dict[str, Any]:
    """Return a workload as the data of a pipeline file; with `declare="cpu"` of components that say that they compute."""
    stages: list[dict[str, Any]] = []
    for node, (kind, above) in workload.nodes.items():
        name = f"bench_{kind}" if declare == "trivial" or kind == "spin" else f"bench_{kind}_cpu"
        stage: dict[str, Any] = {"id": node, "component_type": name}
        if above:
            stage["config"] = {"values": ["{{ stages.%s.value }}" % each for each in above]}  # noqa: UP031  # braces
        if fuse != "auto":
            stage["placement"] = {"fuse": fuse}
        stages.append(stage)
    return {"name": f"bench-{workload.name}", "stages": stages, "output": {"done": True}}
