"""The crash harness: real processes are killed again and again, and what is promised of a run is looked at after every kill.

An *episode* is one run: `fm run`, killed at a random moment or at a random fsync, then `fm resume`, killed too, until it is let
end. Several episodes share a project and its store. After every kill and at the end:

- a run that was there is still there, its positions have no gap, and it ends when it is let;
- what was recorded as an output is recorded so for ever;
- what is reserved (an idempotent stage) was reserved once, under one key, however often it was asked for;
- what is charged (an effectful stage) was charged again only where `--in-doubt retry` said so;
- a kill costs at most the attempts that were under way, of which there are `WINDOW`, and those whose end was not written yet;
- the result is the one that a run without kills has, but for what `--in-doubt skip|fail` decided.

    python -m tests.chaos.harness [--kills 1000] [--seed N] [--workers 2] [--store URL]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flowmason_ray.engine.run_log import RunRecord, RunStore
from flowmason_ray.errors import StoreUnavailable
from flowmason_ray.wiring import open_workspace
from tests.chaos.recorder import World, world

T = TypeVar("T")
HERE = Path(__file__).parent
WINDOW = 4
"""Items of the loop that are worked on at a time."""
ITEMS = 10
LARGE = 100_000
"""Characters of a value that is stored as a blob."""
TYPICAL_S = 0.45
"""About how long a process takes that is not killed; kills at random moments are drawn from a little more than this."""
MOST_FSYNCS = 30
"""About how often a process of these calls fsync."""
ENDS_WITHIN_S = 180.0

COMPONENTS = """
import json
import time
import urllib.request

from pydantic import BaseModel

from flowmason_ray import operator


def tell(address, action, what):
    body = json.dumps({"what": what}).encode()
    request = urllib.request.Request(f"http://{address}/{action}", data=body, method="PUT")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


class In(BaseModel):
    address: str
    n: int
    ms: float = 0
    large: bool = False


class Out(BaseModel):
    value: int
    text: str = ""


@operator(effect="pure", cost="cpu")
class Work:
    Input, Output = In, Out

    def execute(self, input, context):
        tell(input.address, "begin", f"{context.run_id}/{context.path}")
        time.sleep(input.ms / 1000)
        return Out(value=input.n * input.n, text=f"{input.n}" * LARGE if input.large else "")


class Charged(BaseModel):
    charged: str


@operator(effect="effectful", cost="io")
class Charge:
    Input, Output = In, Charged

    def execute(self, input, context):
        answer = tell(input.address, "charge", f"{context.run_id}/{context.path}")
        time.sleep(input.ms / 1000)
        return Charged(charged=answer["charged"])
""".replace("LARGE", str(LARGE))


def pipeline(name: str, address: str, *, charging: bool) -> dict[str, Any]:
    """Return the pipeline of an episode: a loop with all kinds of stages, and two stages behind it."""
    about = {"address": address, "n": "{{item}}"}
    what = "{{context.run_id}}/{{context.path}}"
    body = ["price", "reserve", "write", *(["charge"] if charging else [])]
    stages = [
        {"id": "each", "component_type": "foreach", "config": {
            "items": "{{input.numbers}}", "loop_stages": body, "max_parallel": WINDOW, "break_on_error": False,
            "collect": {"n": "{{item}}", "price": "{{stages.price.value}}", "reserved": "{{stages.reserve.body.reserved}}",
                        "length": "{{stages.write.text | length}}",
                        "charged": "{{stages.charge.charged | default(none)}}" if charging else None},
        }},
        {"id": "price", "component_type": "work", "config": {**about, "ms": 8}},
        {"id": "reserve", "component_type": "http_request", "depends_on": ["price"], "config": {
            "url": f"http://{address}/reserve", "method": "PUT", "body": {"what": what}}},
        {"id": "write", "component_type": "work", "depends_on": ["price"], "config": {**about, "ms": 3, "large": "{{item % 3 == 0}}"}},
        {"id": "last", "component_type": "work", "config": {"address": address, "n": "{{stages.each.succeeded_items}}"}},
    ]  # fmt: skip
    if charging:
        stages.append(
            {"id": "charge", "component_type": "charge", "depends_on": ["reserve"], "config": {**about, "ms": 4}}
        )
    return {
        "name": name,
        "stages": stages,
        "output": {
            "items": "{{stages.each.results}}",
            "errors": "{{stages.each.errors}}",
            "last": "{{stages.last.value}}",
        },
    }


@dataclass
class Tally:
    """What happened, in all episodes."""

    kills: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    processes: int = 0
    in_doubt: int = 0
    repeated: int = 0
    """Pure stages that ran again."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def killed(self, how: str) -> None:
        with self.lock:
            self.kills[how] += 1

    @property
    def total(self) -> int:
        """How many processes were killed."""
        return sum(self.kills.values())


class Zygote:
    """Forks the processes; see zygote.py."""

    def __init__(self, shim: Path | None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        if shim is not None:
            environment["LD_PRELOAD"] = str(shim)
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._changed = threading.Condition()
        self._pids: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._number = 0
        self._gone = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                if "id" in said:
                    self._pids[said["id"]] = said["pid"]
                else:
                    self._ended[said["pid"]] = said["status"]
                self._changed.notify_all()
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def start(self, **request: Any) -> int:
        """Start a process; return its pid."""
        assert self._process.stdin is not None
        with self._changed:
            self._number += 1
            number = self._number
            self._process.stdin.write((json.dumps({"id": number, **request}) + "\n").encode())
            self._process.stdin.flush()
            assert self._changed.wait_for(lambda: number in self._pids or self._gone, timeout=60)
            return self._pids.pop(number)

    def wait(self, pid: int, timeout: float) -> int | None:
        """Return the status of a process that has ended within a time, else None."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._ended or self._gone, timeout=timeout)
            return self._ended.pop(pid, None)

    def close(self) -> None:
        """End it, and every process with it."""
        self._process.kill()
        self._process.communicate()


def build_shim(folder: Path) -> Path | None:
    """Compile shim.c; None where there is no compiler, and then kills at an fsync are left out."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    target = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(HERE / "shim.c"), "-ldl"], check=True)
    return target


class Episode:
    """One run, killed until it is let end."""

    def __init__(self, *, number: int, seed: int, kills: int, project: Path, store: RunStore, zygote: Zygote, world: World, tally: Tally, shim: bool) -> None:  # fmt: skip
        self.random = random.Random(seed)
        self.charging = self.random.random() < 0.6
        self.name = f"orders-{number}"
        self.project = project
        self.store = store
        self.zygote = zygote
        self.world = world
        self.tally = tally
        self.shim = shim
        self.kills_left = kills
        self.file = project / f"{self.name}.pipeline.json"
        self.recorded: dict[tuple[str, int, str], str] = {}
        self.retried: Counter[str] = Counter()
        """What was charged in doubt → how often it was said to do it again."""
        self.skipped: set[str] = set()
        self.failed: set[str] = set()
        self.kills = 0
        self.said: list[str] = []
        """What the latest processes were and how they ended, for the message of a failure."""

    def play(self) -> None:
        """Run it to its end.

        Raises:
            AssertionError: a promise was broken.
        """
        self.file.write_text(json.dumps(pipeline(self.name, self.world.address, charging=self.charging)))
        given = json.dumps({"numbers": list(range(ITEMS))})
        deadline = time.monotonic() + ENDS_WITHIN_S + 10 * self.kills_left
        record: RunRecord | None = None
        while record is None:
            self._process("run", str(self.file), "-i", given, "--json", "-q", "--on", "local")
            assert time.monotonic() < deadline, "the run never began"
            record = self._find()
        self._play_on(record, deadline)
        for late in self._runs():
            if late.run_id != record.run_id:
                # Its first commit was on disk when it was killed, but nobody could see it: see `_resume`.
                self.recorded, self.kills_left = {}, 0
                self._play_on(late, deadline)

    def _play_on(self, record: RunRecord, deadline: float) -> None:
        while True:
            record = self._look(record)
            if record.status != "interrupted":
                break
            assert time.monotonic() < deadline, f"run {record.run_id} does not end"
            self._resume(record)
        self._judge(record)

    # -- processes ------------------------------------------------------------------------------------------------------

    def _process(self, *arguments: str) -> tuple[int, str, str]:
        """Run `fm` with arguments, perhaps killing it; return its status, stdout and stderr."""
        kill = self.kills_left > 0 and self.random.random() < 0.9
        at_fsync = kill and self.shim and self.random.random() < 0.5
        after = self.random.random() < 0.5
        out, err = self.project / f"{self.name}.out", self.project / f"{self.name}.err"
        request = {"args": arguments, "cwd": str(self.project), "out": str(out), "err": str(err)}
        if at_fsync:
            request |= {"fsync": self.random.randint(1, MOST_FSYNCS), "after": after}
        pid = self.zygote.start(**request)
        with self.tally.lock:
            self.tally.processes += 1
        if kill and not at_fsync:
            status = self.zygote.wait(pid, self.random.random() * TYPICAL_S * 1.2)
            if status is None:
                os.kill(pid, 9)
                status = self.zygote.wait(pid, ENDS_WITHIN_S)
        else:
            status = self.zygote.wait(pid, ENDS_WITHIN_S)
        assert status is not None, f"fm {arguments[0]} of {self.name} does not end: {err.read_text()}"
        if status == -9:
            self.kills_left -= 1
            self.kills += 1
            self.tally.killed(f"{'after' if after else 'before'} an fsync" if at_fsync else "at a random moment")
        self.said = [*self.said[-5:], f"fm {' '.join(arguments)}: {status} {err.read_text()[-600:]}"]
        return status, out.read_text(), err.read_text()

    def _resume(self, record: RunRecord) -> None:
        status, out, err = self._process("resume", record.run_id, "--json", "-q")
        err += out
        if status == 2 and "in-doubt" in err:
            assert self.charging, err
            paths = re.findall(r"'(each\[\d+\]/charge)'", err)
            assert paths, err
            decision = self.random.choice(["retry", "skip", "fail"])
            with self.tally.lock:
                self.tally.in_doubt += len(paths)
            status, out, err = self._process("resume", record.run_id, "--in-doubt", decision, "--json", "-q")
            err += out
            # Killed before it could record what was decided, it may not have been decided: the same is in doubt again.
            for path in paths:
                what = f"{record.run_id}/{path}"
                if decision == "retry":
                    self.retried[what] += 1
                else:
                    (self.skipped if decision == "skip" else self.failed).add(path)
        if status == 2 and "only a run that was interrupted" in err:
            # A commit that was on disk before its writer could say so is seen by readers only when SQLite recovers its log.
            assert self._look(record).status in ("succeeded", "failed"), err
            return
        assert status in (0, 1, -9), f"resume of {self.name} ended with {status}: {err}"

    # -- what must hold -------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Ask the store, again while it cannot be reached: it may have been stopped on purpose."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        while True:
            try:
                return asyncio.run(question())
            except StoreUnavailable:
                assert time.monotonic() < deadline, "the store does not come back"
                time.sleep(0.2)

    def _runs(self) -> list[RunRecord]:
        return self._ask(lambda: self.store.list_runs(pipeline=self.name))

    def _find(self) -> RunRecord | None:
        found = self._runs()
        return found[0] if found else None

    def _look(self, record: RunRecord) -> RunRecord:
        """Read the log; see that nothing that was in it has changed."""

        async def read() -> tuple[RunRecord, list[tuple[int, Mapping[str, Any]]]]:
            events = [(r.position, r.event) async for r in self.store.read(record.run_id)]
            return await self.store.find(record.run_id), events

        record, events = self._ask(read)
        assert record.status != "running", f"the process of {record.run_id} has gone: its run is not running"
        assert [position for position, _ in events] == list(range(1, len(events) + 1)), "positions have a gap"
        found: dict[tuple[str, int, str], str] = {}
        for _, event in events:
            if event["kind"] in ("stage_succeeded", "stage_reused"):
                key = (event["path"], event["attempt"], "decision" if "decision" in event else "")
                text = json.dumps({name: event.get(name) for name in ("value", "packed", "decision")}, sort_keys=True)
                assert found.setdefault(key, text) == text or "decision" in event, f"{key} has two outputs"
                found[key] = text
        for key, text in self.recorded.items():
            assert found.get(key) == text, f"{record.run_id}: the recorded output of {key} has changed"
        self.recorded = found
        return record

    def _judge(self, record: RunRecord) -> None:
        """Look at how it ended, and at what it did to the world."""
        run = record.run_id

        async def read() -> Any:
            return [r.event async for r in self.store.read(run)][-1]

        last = self._ask(read)
        assert record.status == "succeeded", f"{run}: {record.failure}"
        output = last["value"]
        failed = {int(path.split("[")[1].split("]")[0]) for path in self.failed}
        skipped = {int(path.split("[")[1].split("]")[0]) for path in self.skipped}
        assert {error["index"] for error in output["errors"]} <= failed
        for n, item in enumerate(output["items"]):
            if item is None:
                assert n in failed, f"{run}: item {n} has no result"
                continue
            length = LARGE * len(str(n)) if n % 3 == 0 else 0
            assert (item["n"], item["price"], item["length"]) == (n, n * n, length), f"{run}: {item}"
            assert item["reserved"] == f"{run}/each[{n}]/reserve"
            if self.charging:
                assert item["charged"] == f"{run}/each[{n}]/charge" or (item["charged"] is None and n in skipped), (
                    f"{run}: {item}"
                )
        assert output["last"] == sum(item is not None for item in output["items"]) ** 2
        with self.world.lock:
            self._judge_effects(run)
        with self.tally.lock:
            self.tally.runs += 1

    def _judge_effects(self, run: str) -> None:
        world = self.world
        for n in range(ITEMS):
            reserve, charge = f"{run}/each[{n}]/reserve", f"{run}/each[{n}]/charge"
            assert len(world.keys[reserve]) == 1, f"{reserve} was asked for with {world.keys[reserve]}"
            key = next(iter(world.keys[reserve]))
            assert world.reserved[key] == reserve, "a key belongs to one stage of one run"
            again = world.charged[charge] - 1 - self.retried[charge]
            assert again <= 0, (
                f"{charge} was charged {world.charged[charge]} times, retried {self.retried[charge]} times"
            )
        begun = [count for what, count in world.begun.items() if what.startswith(f"{run}/")]
        repeated = sum(begun) - len(begun)
        with self.tally.lock:
            self.tally.repeated += repeated
        # Two pure stages an item, of which `WINDOW` are worked on; one more round may have ended within the writer's delay.
        assert repeated <= self.kills * 2 * 2 * WINDOW, f"{run}: {repeated} repeated after {self.kills} kills"


@contextmanager
def project_at(folder: Path, address: str) -> Generator[Path]:
    """Make the project that the episodes share."""
    folder.mkdir(parents=True)
    settings = {"name": "chaos", "http": {"allow_hosts": [address]}}
    (folder / "flowmason.json").write_text(json.dumps(settings))
    (folder / "components").mkdir()
    (folder / "components" / "work.py").write_text(COMPONENTS)
    yield folder


@contextmanager
def _environment(store: str | None) -> Generator[None]:
    """Have everybody use a store."""
    if store is not None:
        os.environ["FLOWMASON_STORE"] = store
    try:
        yield
    finally:
        os.environ.pop("FLOWMASON_STORE", None)


def play(
    *,
    kills: int,
    seed: int,
    workers: int = 2,
    store: str | None = None,
    most_kills: int = 6,
    until: Callable[[], bool] = lambda: True,
    say: bool = False,
) -> Tally:
    """Play episodes until so many processes were killed; return what happened.

    Args:
        kills: How many.
        seed: Where every choice comes from, but for the machine's own.
        workers: How many episodes go on at a time.
        store: The address of a database; None: SQLite.
        most_kills: How often the processes of one run are killed at most.
        until: Whether enough has happened besides.
        say: Whether to tell how far it is.

    Raises:
        AssertionError: a promise was broken; it names the seed of the episode.
    """
    tally = Tally()
    with (
        _environment(store),
        tempfile.TemporaryDirectory() as made,
        world() as outside,
        project_at(Path(made) / "project", outside.address) as project,
    ):
        shim = build_shim(Path(made))
        zygote = Zygote(shim)
        run_store = open_workspace(project).store()
        numbers = iter(range(1_000_000))
        lock = threading.Lock()

        def episodes() -> None:
            while tally.total < kills or not until():
                with lock:
                    number = next(numbers)
                own = seed * 1_000_003 + number
                most = random.Random(own).randint(1, most_kills)
                episode = Episode(number=number, seed=own, kills=most, project=project, store=run_store, zygote=zygote, world=outside, tally=tally, shim=shim is not None)  # fmt: skip
                try:
                    episode.play()
                except AssertionError as exc:
                    story = "\n".join(episode.said)
                    raise AssertionError(f"seed {seed}, episode {number}: {exc}\n{story}") from exc
                if say and number % 20 == 0:
                    print(f"{tally.total} kills, {tally.runs} runs", file=sys.stderr, flush=True)

        try:
            with ThreadPoolExecutor(workers) as pool:
                for worker in [pool.submit(episodes) for _ in range(workers)]:
                    worker.result()
        finally:
            zygote.close()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", help="a database URL; default: SQLite")
    said = parser.parse_args()
    started = time.monotonic()
    tally = play(kills=said.kills, seed=said.seed, workers=said.workers, store=said.store, say=True)
    seconds = time.monotonic() - started
    how = ", ".join(f"{count} {name}" for name, count in sorted(tally.kills.items()))
    print(
        f"{tally.total} kills ({how}) of {tally.processes} processes over {tally.runs} runs in {seconds:.0f} s. "
        f"Every run ended, no recorded output changed; {tally.in_doubt} effects were in doubt, none was repeated unasked; "
        f"{tally.repeated} pure stages ran again, {tally.repeated / max(1, tally.total):.2f} a kill."
    )


if __name__ == "__main__":
    main()
