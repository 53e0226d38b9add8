"""Sending a project to a cluster as a Ray job, over HTTP, from a machine that is no part of it.

The project's directory is packed (what `.gitignore` and `.rayignore` name stays here) and unpacked on the cluster's nodes, where
`fm run` runs in it as it would here. What it leaves there is temporary.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flowmason_ray.errors import FlowMasonError, InvalidCall, MissingExtra

try:
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient
except ModuleNotFoundError as exc:
    raise MissingExtra(feature="Submitting jobs to a Ray cluster", extra="jobs", module=exc.name or "ray") from exc

EXCLUDED = [".flowmason/", ".git/", "__pycache__/", ".venv/"]
"""What is never sent: the log of runs here, and what the cluster has of its own."""
_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
POLL_S = 0.5
QUIET_S = 5.0
"""How long a job that says nothing is left alone at most."""
SHARE = 10.0
"""A log is read again when this many times as long has passed as reading it took."""
LOST_S = 60.0
"""How long a cluster that does not answer is asked again while a job is followed."""


class SubmissionFailed(FlowMasonError):
    """The cluster cannot be reached, or does not take the job."""

    code = "submission_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is sent."""

    directory: Path
    """The project's."""
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    about: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the dashboard shows beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded:
    """How a job ended."""

    status: str
    """`SUCCEEDED`, `FAILED` or `STOPPED`."""
    exit_code: int | None
    """Its command's; None when it never ran."""
    message: str


class JobServer:
    """The part of a cluster that takes jobs."""

    def __init__(self, address: str) -> None:
        """
        Args:
            address: `http://HEAD:8265`, or with https.

        Raises:
            InvalidCall: it is no such address.
            SubmissionFailed: the cluster cannot be reached, or refuses us.
        """
        if not address.startswith(("http://", "https://")):
            raise InvalidCall(
                f"--address is where the cluster's dashboard is, such as http://HEAD:8265; found {address!r}."
            )
        self.address = address.rstrip("/")
        with self._clear_errors(), _without(_ADDRESSES):  # Ray lets these decide, whatever it is told
            self._client: Any = JobSubmissionClient(self.address, headers=_credentials())

    def submit(self, job: Job) -> str:
        """Send a job; return its id.

        Raises:
            SubmissionFailed: it was not taken.
        """
        runtime: dict[str, Any] = {"working_dir": str(job.directory), "excludes": EXCLUDED}
        if job.environment:
            runtime["env_vars"] = dict(job.environment)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.ERROR)  # it tells of every package
        with self._clear_errors():
            return self._client.submit_job(
                entrypoint=shlex.join(job.command), runtime_env=runtime, metadata=dict(job.about)
            )

    async def lines(self, job_id: str) -> AsyncIterator[str]:
        """Yield what a job prints, line by line, until it has ended.

        Raises:
            SubmissionFailed: the cluster does not answer any more.
        """
        seen, rest, loop = 0, "", asyncio.get_running_loop()
        pause_s, due = POLL_S, 0.0
        lost_at: float | None = None
        while True:
            try:
                over = await asyncio.to_thread(self._is_over, job_id)
                if not over and loop.time() < due:
                    await asyncio.sleep(POLL_S)
                    continue
                began = loop.time()
                text: str = await asyncio.to_thread(self._logs, job_id)
            except SubmissionFailed:
                lost_at = loop.time() if lost_at is None else lost_at
                if loop.time() - lost_at > LOST_S:
                    raise
                await asyncio.sleep(POLL_S)
                continue
            lost_at = None
            # All of it comes each time: a job that says nothing, or has said much, is asked less often, and whether it is over as before.
            pause_s = POLL_S if len(text) > seen + len(rest) else min(QUIET_S, pause_s * 1.5)
            due = loop.time() + max(pause_s, SHARE * (loop.time() - began))
            *lines, rest = (text[seen:]).split("\n")
            for line in lines:
                yield line
            seen = len(text) - len(rest)
            if over:
                break
            await asyncio.sleep(POLL_S)
        if rest:
            yield rest

    def _is_over(self, job_id: str) -> bool:
        with self._clear_errors():
            return self._client.get_job_status(job_id).is_terminal()

    def _logs(self, job_id: str) -> str:
        with self._clear_errors():
            return self._client.get_job_logs(job_id)

    def ended(self, job_id: str) -> JobEnded:
        """Return how a job ended."""
        with self._clear_errors():
            info = self._client.get_job_info(job_id)
        return JobEnded(status=str(info.status), exit_code=info.driver_exit_code, message=info.message or "")

    @contextmanager
    def _clear_errors(self) -> Generator[None]:
        """Turn what Ray's client raises into one error of ours."""
        try:
            yield
        except AuthenticationError as exc:
            said = str(exc).strip().splitlines()[0]
            hint = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the cluster's token."
            raise SubmissionFailed(f"The cluster at {self.address} refuses us: {said} {hint}") from exc
        except (requests.RequestException, aiohttp.ClientError, OSError) as exc:
            raise SubmissionFailed(
                f"Cannot reach the cluster's dashboard at {self.address}: {type(exc).__name__}. Is it the dashboard's address, "
                "and may this machine reach it?"
            ) from exc
        except (RuntimeError, ValueError) as exc:
            raise SubmissionFailed(f"The cluster at {self.address} does not take the job: {exc}") from exc


def _credentials() -> dict[str, str]:
    """Return the header for a token of which Ray itself was not told to make use."""
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if token and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {"Authorization": f"Bearer {token}"}
    return {}


@contextmanager
def _without(names: Sequence[str]) -> Generator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        cast("dict[str, str]", os.environ).update(kept)
