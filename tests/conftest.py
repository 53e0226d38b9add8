"""Fixtures of the whole suite: one Ray for all tests that need it, a project directory, and libraries that are not there.

Unit tests (`tests/unit`) never touch Ray. Tests marked `ray` share one embedded cluster. `scripts/test`
runs them in a process of their own, after the others.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Ray reads these once, when it is imported; its workers inherit them.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "disabled"  # else a token that lies in the home directory decides
os.environ.pop("RAY_ADDRESS", None)  # the tests' Ray is always their own

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres_kit import MIGRATED, Server, prepare_template, serving
from tests.servers_kit import Receiver, http_receiver, redis_server, s3_server

for _name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "OPENAI_"))]:
    del os.environ[_name]  # no test asks a model that costs money, or depends on who runs it
for _name in ("FLOWMASON_PROVIDER", "FLOWMASON_MODEL", "FLOWMASON_EMBEDDING_MODEL"):
    os.environ.pop(_name, None)

# A loaded machine is no failure: neither an example nor making examples has to be quick.
_patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _patient)
settings.register_profile("ci", _patient, derandomize=True, print_blob=True)  # the same examples on every run
settings.load_profile("ci" if os.environ.get("CI") else "default")

RAY_TEST_TIMEOUT_S = 400
"""For a Ray test that does not set its own: the first one also waits for the cluster (7 s quiet, 33 s on a busy machine)."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring all tests that use Ray into one process, give them time, and let them start first, because they are slow."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
        if item.get_closest_marker("ray") is not None:
            item.add_marker(pytest.mark.xdist_group("ray"))  # one process, also under plain `pytest -n`
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(RAY_TEST_TIMEOUT_S))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Start one embedded Ray for the whole session.

    Returns: its address, for processes that a test starts (`RAY_ADDRESS`).
    """
    ray: Any = importlib.import_module("ray")  # here, so that other tests never pay for the import
    options: dict[str, Any] = {
        "address": "local",
        "num_cpus": 4,  # logical: enough to see parallelism on a machine with two cores
        "object_store_memory": 256 * 1024**2,
        "include_dashboard": False,
        "log_to_driver": False,
        "configure_logging": False,
    }
    for last in (False, True):
        try:
            ray.init(**options)
            break
        except Exception:  # Ray's 30 s for a start were not enough, on a busy machine
            if last:
                raise
        ray.shutdown()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves the processes of the first try to themselves
            gc.collect()
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server for the session, with a template of our tables."""
    for server in serving():
        prepare_template(server)
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> str:
    """The address of a fresh database with our tables."""
    return postgres.url(postgres.new_database(MIGRATED))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server for the session; its password is `servers_kit.PASSWORD`."""
    yield from redis_server()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server for the session."""
    yield from s3_server()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An HTTP server that keeps what it is sent."""
    yield from http_receiver()


@pytest.fixture
def project_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh, empty project that is also the working directory."""
    (tmp_path / "flowmason.json").write_text(json.dumps({"name": "test"}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes a library look not installed, until the test ends.

    `absent("polars", forget=["flowmason_ray.components.builtin.tables"])`: importing polars fails, and our module is
    forgotten, so that its next import meets that failure.
    """

    def hide(library: str, *, forget: list[str] | None = None) -> None:
        for name in [library, *sys.modules]:
            if name == library or name.startswith(library + "."):
                monkeypatch.setitem(sys.modules, name, None)
        for name in forget or []:
            monkeypatch.delitem(sys.modules, name, raising=False)

    return hide
