"""`fm run --detach`: hands a run to its cluster, and says how it is found again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowmason_ray.cli.terminal import note, write_json, write_text
from flowmason_ray.errors import InvalidCall, MissingExtra

if TYPE_CHECKING:
    from flowmason_ray.api import PreparedRun
    from flowmason_ray.engine.reuse import InDoubt
    from flowmason_ray.settings import Project


def check_detach(*, on: str | None, address: str | None, store: bool) -> None:
    """Make sure that a run can be handed over, before anything is read.

    Raises:
        InvalidCall: it cannot; says what is needed.
        MissingExtra: Ray is not installed.
    """
    if on != "ray":
        raise InvalidCall(f"--detach hands the run to a Ray cluster; it cannot run on {on!r}.")
    if not store:
        raise InvalidCall(
            "--detach needs the run log: it is all that a run and who watches it share. Leave out --no-store."
        )
    try:
        from flowmason_ray.ray_jobs.detaching import check_address
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "ray":
            raise
        raise MissingExtra(feature="Running on Ray", extra="ray", module="ray") from exc
    check_address(address)


def hand_over(
    prepared: PreparedRun,
    project: Project,
    *,
    address: str | None,
    as_json: bool,
    quiet: bool,
    in_doubt: InDoubt | None = None,
) -> None:
    """Hand a run to its cluster, and print its id.

    Args:
        prepared: The run.
        project: Its project.
        address: The cluster's.
        as_json: Print a document.
        quiet: Print only the id.
        in_doubt: For a run that goes on where it was: what holds for attempts in doubt. None: it is a new run.

    Raises:
        FlowMasonError: it cannot be recorded or handed over.
    """
    from flowmason_ray.ray_jobs.detaching import detach, detach_again

    run_id = prepared.run_id
    if not quiet:
        note(f"{prepared.plan.name} {prepared.plan.version} is handed to the cluster as run {run_id}…")
    if in_doubt is None:
        node = asyncio.run(detach(prepared, project, address=address))
    else:
        node = asyncio.run(detach_again(prepared, project, in_doubt=in_doubt, address=address))
    if as_json:
        write_json({"run_id": run_id, "status": "running"})
    else:
        write_text(f"{run_id}\n")
    if not quiet:
        if node:
            note("Its log is a file of this machine, so its coordinator is bound to this node and ends with it.")
        note(f"Watch it: fm runs watch {run_id}; stop it: fm cancel {run_id}")
