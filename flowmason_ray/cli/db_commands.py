"""`fm db`: the tables of the project's run log. A SQLite file looks after itself; a shared PostgreSQL is set up here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from pathlib import Path

    from flowmason_ray.stores.opening import TablesStatus

group = typer.Typer(help="Set up and upgrade the tables of the project's run log.", no_args_is_help=True)

Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@group.command("status")
@command
def status(as_json: AsJson = False, project: Project = ".") -> None:
    """Say where the run log is, and whether its tables are up to date."""
    from flowmason_ray.stores.opening import tables_status

    _tell(tables_status(*_address(project)), as_json)


@group.command("upgrade")
@command
def upgrade(as_json: AsJson = False, project: Project = ".") -> None:
    """Make the tables of the run log, or bring them up to date."""
    from flowmason_ray.stores.opening import upgrade_tables

    _tell(upgrade_tables(*_address(project)), as_json)


def _address(project: str) -> tuple[str, Path]:
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.settings import find_project
    from flowmason_ray.stores.opening import store_addresses

    if not Path(project).is_dir():
        raise InvalidCall(f"--project: there is no directory {project!r}.")
    found = find_project(Path(project))
    return store_addresses(found)[0], found.root


def _tell(found: TablesStatus, as_json: bool) -> None:
    from flowmason_ray.cli.terminal import write_json, write_text

    if as_json:
        write_json({"address": found.address, "revision": found.revision, "known": found.known, "status": found.words})
    else:
        write_text(f"{found.address}\nrevision {found.revision} of {found.known}: {found.words}\n")
