"""`fm prompts`: the prompts of model nodes, and copies of them that a project edits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.components.prompting import Prompt, PromptLibrary

group = typer.Typer(
    help="Show the prompts that model nodes ask with, and copy them into the project to edit them.",
    no_args_is_help=True,
)

Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The prompt's name: that of its node.")]
Version = Annotated[
    str | None, typer.Option("--version", metavar="VERSION", help="Which version. Default: the one that holds.")
]


@group.command("list")
@command
def list_prompts(as_json: AsJson = False, project: Project = ".") -> None:
    """List the prompts with their versions; * marks the version that holds where a stage names none."""
    from flowmason_ray.cli.terminal import columns, painter, width_of, write_json, write_text

    library = _library(project)
    names = library.names()
    if as_json:
        found = [{"name": n, "default": library.default(n), "versions": library.versions(n)} for n in names]
        write_json({"prompts": found})
        return
    rows: list[tuple[str, ...]] = []
    for name in names:
        default = library.default(name)
        for version, origin in library.versions(name).items():
            mark = "*" if version == default else ""
            rows.append((name, f"{version}{mark}", origin, *_row(library, name, version)))
    width = width_of(sys.stdout) if sys.stdout.isatty() else None
    header = ("NAME", "VERSION", "FROM", "DIGEST", "WHAT IT IS FOR")
    write_text("\n".join(columns(rows, header=header, paint=painter(sys.stdout), width=width)) + "\n")


@group.command("show")
@command
def show_prompt(name: Name, version: Version = None, as_json: AsJson = False, project: Project = ".") -> None:
    """Show a prompt's text."""
    from flowmason_ray.cli.terminal import write_json, write_text

    prompt = _library(project).find(name, version)
    if as_json:
        write_json(_facts(prompt))
        return
    write_text(prompt.text if prompt.text.endswith("\n") else f"{prompt.text}\n")


@group.command("eject")
@command
def eject_prompt(
    name: Name,
    version: Version = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the project's own file.")] = False,
    project: Project = ".",
) -> None:
    """Copy a built-in prompt into the project's `prompts/`, where it is edited and comes before the built-in one."""
    from flowmason_ray.cli.problem_report import shown_path
    from flowmason_ray.cli.terminal import write_text

    file = _library(project).eject(name, version, overwrite=force)
    write_text(f"{shown_path(str(file))}\n")


def _row(library: PromptLibrary, name: str, version: str) -> tuple[str, str]:
    """Return a prompt's digest and description; of one that is none, why."""
    from flowmason_ray.errors import InvalidPipeline

    try:
        prompt = library.find(name, version)
    except InvalidPipeline as exc:
        return "", f"cannot be used: {exc.problems[0].message}"
    return prompt.digest, prompt.description


def _library(project: str) -> PromptLibrary:
    from pathlib import Path

    from flowmason_ray.components.prompting import PromptLibrary
    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.settings import find_project

    if not Path(project).is_dir():
        raise InvalidCall(f"--project: there is no directory {project!r}.")
    return PromptLibrary(find_project(Path(project)).root)


def _facts(prompt: Prompt) -> dict[str, Any]:
    return {
        "name": prompt.name,
        "version": prompt.version,
        "from": prompt.origin,
        "digest": prompt.digest,
        "file": prompt.file,
        "description": prompt.description,
        "variables": list(prompt.variables),
        "text": prompt.text,
    }
