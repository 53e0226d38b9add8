"""`fm providers`: which model providers there are here, and whether they answer."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.wiring import Workspace

group = typer.Typer(help="Look at the model providers of a project and the environment.", no_args_is_help=True)

Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@group.command("list")
@command
def list_providers(as_json: AsJson = False, project: Project = ".") -> None:
    """List the providers; the one that is asked where nothing is said is marked. Nothing is asked."""
    from flowmason_ray.cli.terminal import columns, note, painter, width_of, write_json, write_text
    from flowmason_ray.llm.choosing import HOW_TO

    workspace = _workspace(project)
    facts = _facts(workspace)
    for name, wrong in workspace.choices.unusable.items():
        note(f"The provider {name!r} is left out. {wrong}")
    if as_json:
        write_json({"providers": facts})
        return
    if not facts:
        if workspace.choices.unusable:
            return
        note(f"No model provider is configured. {HOW_TO}")
        return
    header = ("NAME", "TYPE", "MODEL", "KEY", "FROM", "ADDRESS")
    rows = [
        (
            f"{name}{' (default)' if each['default'] else ''}",
            str(each["type"]),
            str(each["model"] or "-"),
            _key_words(each),
            "environment" if each["built_in"] else "flowmason.json",
            str(each["base_url"] or "-"),
        )
        for name, each in facts.items()
    ]
    width = width_of(sys.stdout) if sys.stdout.isatty() else None
    write_text("\n".join(columns(rows, header=header, paint=painter(sys.stdout), width=width)) + "\n")


@group.command("check")
@command
def check_provider(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The provider. Default: the one that is asked.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Another model than its own.")] = None,
    as_json: AsJson = False,
    project: Project = ".",
) -> None:
    """Ask a provider for one word, and show what that took. It costs a few tokens."""
    import asyncio

    from flowmason_ray.cli.terminal import write_json, write_text
    from flowmason_ray.cli.usage_words import money

    answer, usage = asyncio.run(_ask(_workspace(project), name, model))
    if as_json:
        document = {
            "provider": answer.provider,
            "model": answer.model,
            "text": answer.text,
            "cost_usd": answer.cost_usd,
        }
        write_json({**document, "usage": usage})
        return
    entry = usage["models"][-1]
    took = f"{answer.usage.input_tokens} + {answer.usage.output_tokens} tokens in {entry['model_s']:.2f} s, {money(answer.cost_usd)}"
    write_text(f"{answer.provider} ({answer.model}) says {answer.text.strip()[:80]!r}: {took}\n")


def _workspace(project: str) -> Workspace:
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.wiring import open_workspace

    if not Path(project).is_dir():
        raise InvalidCall(f"--project: there is no directory {project!r}.")
    return open_workspace(Path(project))


def _facts(workspace: Workspace) -> dict[str, dict[str, Any]]:
    from flowmason_ray.errors import InvalidCall, InvalidPipeline
    from flowmason_ray.llm.choosing import default_model, key_variable

    choices = workspace.choices
    try:
        settled = choices.settle([])
    except (
        InvalidPipeline,
        InvalidCall,
    ):  # the default does not exist: validating a pipeline says so; or see `unusable`
        settled = {}
    found: dict[str, dict[str, Any]] = {}
    for name, settings in sorted(choices.providers.items()):
        variable = key_variable(settings)
        is_default = name == settled.get("provider")
        found[name] = {
            "type": settings.type,
            "model": settled.get("model") if is_default else default_model(settings),
            "embedding_model": settings.embedding_model,
            "base_url": settings.base_url,
            "key": variable,
            "key_is_set": None if variable is None else bool(os.environ.get(variable)),
            "built_in": name in choices.built_in,
            "default": is_default,
        }
    return found


def _key_words(facts: dict[str, Any]) -> str:
    if facts["key"] is None:
        return "none"
    return str(facts["key"]) if facts["key_is_set"] else f"{facts['key']} is not set"


class _Asker:
    """What models know about who asks, outside of a run."""

    path = "providers"
    idempotency_key = "check"
    watched = False

    def log(self, level: str, message: str, **fields: Any) -> None:
        """Show it."""
        from flowmason_ray.cli.terminal import note

        note(f"{level}: {message}")

    def masked(self, text: str) -> str:
        """Return the text: it is ours."""
        return text

    def stream(self, text: str) -> None:
        """Nobody watches."""


async def _ask(workspace: Workspace, name: str | None, model: str | None) -> tuple[Any, dict[str, Any]]:
    from flowmason_ray.llm.lazy import LazyModels
    from flowmason_ray.wiring import provider_keys

    choices = workspace.choices
    models = LazyModels(choices, provider_keys(choices), workspace.project.root).for_attempt(
        _Asker(), choices.settle([{"provider": name}] if name else [])
    )
    answer = await models.generate("Answer with the word: ready", max_tokens=16, model=model)
    return answer, models.usage() or {}
