"""`fm git`: git merges and shows pipelines by stage, once it is told how."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.cli.git_install import Done

group = typer.Typer(help="Let git merge and show pipelines by stage, not by line.", no_args_is_help=True)

Everywhere = Annotated[bool, typer.Option("--global", help="For all repositories of this user, not for this one.")]


@group.command("install")
@command
def install(everywhere: Everywhere = False) -> None:
    """Set up git: a merge driver, a diff driver and textconv for *.pipeline.json, and hooks that check what is committed.

    May be repeated. What is there already is kept: other attributes stay, another hook is run before ours. With --global
    there are no hooks, because those belong to a repository.
    """
    from flowmason_ray.cli.git_install import install as put

    _print(put(everywhere=everywhere))


@group.command("uninstall")
@command
def uninstall(everywhere: Everywhere = False) -> None:
    """Take away exactly what 'fm git install' put there."""
    from flowmason_ray.cli.git_install import uninstall as take

    _print(take(everywhere=everywhere))


def _print(done: Iterable[Done]) -> None:
    from flowmason_ray.cli.terminal import note, painter

    paint = painter(sys.stderr)
    for each in done:
        why = f" ({each.why})" if each.why else ""
        note(f"{each.place}: {paint(each.what, 'green' if each.what in ('written', 'removed') else 'dim')}{why}")


@group.command("merge-driver")
@command
def merge_driver(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The common ancestor; may be empty.")],
    ours: Annotated[str, typer.Argument(metavar="OURS", help="Our version; the result is written there.")],
    theirs: Annotated[str, typer.Argument(metavar="THEIRS", help="Their version.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where the file is in the work tree.")],
) -> int:
    """What git calls to merge a pipeline. Exit code 64: there are conflicts; 65: git is to merge by line."""
    from flowmason_ray.cli.git_drivers import merge_file

    return merge_file(base, ours, theirs, path)


@group.command("diff-driver", context_settings={"ignore_unknown_options": True})
@command
def diff_driver(
    words: Annotated[list[str], typer.Argument(metavar="PATH OLD HASH MODE NEW HASH MODE", help="As git passes them.")],
) -> int:
    """What git calls to show how a pipeline changed."""
    from flowmason_ray.cli.git_drivers import show_difference

    return show_difference(words)


@group.command("textconv")
@command
def textconv(file: Annotated[str, typer.Argument(metavar="FILE", help="A version of a pipeline.")]) -> int:
    """What git calls to compare pipelines by line after all ('git log -p', 'git blame')."""
    from flowmason_ray.cli.git_drivers import write_comparable

    return write_comparable(file)


@group.command("pre-commit")
@command
def pre_commit() -> int:
    """What the hooks call: checks the pipelines that are staged, as 'fm validate' does."""
    from flowmason_ray.cli.git_drivers import check_staged

    return check_staged()
