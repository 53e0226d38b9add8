"""A planted secret is usable by the component that gets it, and shows up nowhere else (security criterion 20)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from flowmason_ray import operator
from flowmason_ray.api import PreparedRun, RunResult
from flowmason_ray.engine.events import Event, StageFailed, StageLogged
from flowmason_ray.engine.secrecy import Masking, Secret
from flowmason_ray.errors import Failure
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore

PLANTED = 'tok"en-\\ü-42'
"""With characters that JSON escapes, and one that UTF-8 spells in two bytes."""


@operator(name="careless", effect="pure", cost="trivial")
class Careless:
    """Says its token wherever it can."""

    class Input(BaseModel):
        header: str
        fail: bool = False
        size: int = 1

    class Output(BaseModel):
        used: bool
        echo: list[str]

    async def execute(self, input: Input, context: Any) -> Output:
        context.log("info", f"using {input.header}", header=input.header)
        if input.fail:
            raise RuntimeError(f"{input.header} was refused")
        return self.Output(used=input.header == f"Bearer {PLANTED}", echo=[input.header] * input.size)


def test_a_secret_does_not_show_itself():
    secret = Secret("hunter2")
    assert {str(secret), repr(secret), f"{secret}", f"{secret!r:>3}", "%s" % secret} == {"***"}  # noqa: UP031  # the point
    assert secret.reveal() == "hunter2"
    assert secret.join_text(["Bearer ", secret]).reveal() == "Bearer hunter2"


def test_masking_reaches_keys_values_and_escapes_and_leaves_short_ones():
    masking = Masking([Secret(PLANTED), "abc", "token-abcd", "token"])
    assert masking.text(f"a {PLANTED} b abc") == "a *** b abc"
    assert masking.text("token-abcd token") == "*** ***"
    assert masking.value({PLANTED: [PLANTED, 1, None]}) == {"***": ["***", 1, None]}
    failure = Failure(code="x", message=PLANTED, traceback=PLANTED, details={"a": PLANTED})
    assert PLANTED not in str(masking.failure(failure))
    assert Masking().value(failure) is failure


def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> tuple[RunResult, list[Event], bytes]:
    monkeypatch.setenv("PLANTED_TOKEN", PLANTED)
    (tmp_path / "flowmason.json").write_text('{"secrets": ["PLANTED_TOKEN"]}')
    file = tmp_path / "p.pipeline.json"
    header = "Bearer {{secrets.PLANTED_TOKEN}}"
    stage = {"id": "a", "component_type": "careless", "config": {"header": header, **config}}
    file.write_bytes(orjson.dumps({"name": "p", "stages": [stage]}))
    store = SqliteRunStore(tmp_path / "runs.db", LocalBlobs(tmp_path / "blobs"))
    seen: list[Event] = []
    prepared = PreparedRun(file, store=store, components=[Careless], observers=[seen.append])
    result = asyncio.run(prepared.run())
    content = b"".join(
        f.read_bytes() for f in sorted(tmp_path.rglob("*")) if f.is_file() and f.name != "p.pipeline.json"
    )
    return result, seen, content


@pytest.mark.parametrize("size", [1, 10_000])
def test_the_component_gets_it_and_neither_log_nor_blobs_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int):
    result, seen, content = run(tmp_path, monkeypatch, {"size": size})
    assert result.output["used"] is True
    assert PLANTED.encode() not in content
    assert orjson.dumps(PLANTED)[1:-1] not in content
    logged = next(event for event in seen if isinstance(event, StageLogged))
    assert PLANTED not in repr(logged)
    assert logged.message == "using Bearer ***"


def test_failures_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result, seen, content = run(tmp_path, monkeypatch, {"fail": True})
    assert result.failure is not None
    assert result.failure.message == "RuntimeError: Bearer *** was refused"
    assert PLANTED not in str(result.to_json())
    assert PLANTED.encode() not in content
    assert all(PLANTED not in repr(event) for event in seen if isinstance(event, StageFailed))
