"""What becomes of a copy that cannot be written: a store that is only away is told from one that will not do it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("ray")

from flowmason_ray.engine.executors import ray_copies, ray_copying
from flowmason_ray.errors import StoreError, StoreUnavailable


class Written:
    """A call that has ended."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def exception(self) -> None:
        return None

    def result(self) -> Any:
        return self._result


@pytest.mark.parametrize("error", [StoreUnavailable("Timeout."), StoreError("That cannot be written down.")])
def test_why_a_copy_is_not_there_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch, error: StoreError) -> None:
    def refused(*given: Any) -> Any:
        raise error

    monkeypatch.setattr(ray_copying, "written", refused)
    monkeypatch.setattr(ray_copying, "run_of", lambda packed: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # no run is needed
    future: Future[bytes | None] = Future()
    ray_copies._settle(future, Written(ray_copying.write_copy({}, b"")))  # pyright: ignore[reportPrivateUsage]  # what Ray calls
    found = future.exception()
    assert type(found) is type(error)
    assert error.message in str(found)
