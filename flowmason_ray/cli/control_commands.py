"""`fm cancel` and `fm pause`: stop a run from another terminal, for good or to be resumed."""

from __future__ import annotations

from typing import Annotated

import typer

from flowmason_ray.cli.errors import command

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run id, the beginning of one, or 'last'.")]
Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
]


@command
def cancel(run: RunId, project: Project = ".") -> int:
    """Cancel a run: one that is under way wherever it was started, or one that is paused or was interrupted."""
    import asyncio

    from flowmason_ray.cli.run_requests import cancel_run
    from flowmason_ray.cli.runs_commands import store_of

    return asyncio.run(cancel_run(store_of(project), run))


@command
def pause(run: RunId, project: Project = ".") -> int:
    """Stop a run that is under way where it is. 'fm resume RUN' goes on with it, from here or elsewhere.

    Stages that can be repeated are stopped; those with an effect that must not be repeated are waited for.
    """
    import asyncio

    from flowmason_ray.cli.run_requests import pause_run
    from flowmason_ray.cli.runs_commands import store_of

    return asyncio.run(pause_run(store_of(project), run))
