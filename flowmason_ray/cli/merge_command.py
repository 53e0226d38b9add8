"""`fm merge`: three versions of a pipeline into one, by stage; and the conflicts of an earlier merge, decided."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import FAILED, command

if TYPE_CHECKING:
    from flowmason_ray.errors import Problem
    from flowmason_ray.spec.merge.conflicts import Chooser, Conflict, Side

SIDES = ("ours", "theirs", "base")


@command
def merge(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BASE OURS THEIRS]", help="The common ancestor and the two versions of it."),
    ] = None,
    continued: Annotated[
        str | None,
        typer.Option(
            "--continue", metavar="FILE", help="Decide the conflicts that an earlier merge left in this file."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there. Default: stdout; for --continue the file."),
    ] = None,
    ours: Annotated[bool, typer.Option("--ours", help="Decide every conflict for ours.")] = False,
    theirs: Annotated[bool, typer.Option("--theirs", help="Decide every conflict for theirs.")] = False,
    choose: Annotated[
        list[str] | None,
        typer.Option("--choose", metavar="PATH=ours|theirs|base", help="Decide one conflict. May be repeated."),
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask/--no-ask", help="Ask about conflicts that are open, when on a terminal.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document: conflicts, and the result.")
    ] = False,
) -> int:
    """Merge two versions of a pipeline that have a common ancestor: stage by stage, never by line.

    What cannot be decided is written into the result, which no command takes for a pipeline until it is decided. Exit code 0
    only when nothing is open and the result can be run as far as both versions could; 1 when something is open; 2 when a file
    is no valid pipeline: then nothing is written.
    """
    from flowmason_ray.errors import InvalidCall

    given = files or []
    if ours and theirs:
        raise InvalidCall("--ours and --theirs exclude each other.")
    if continued is None and len(given) != 3:
        raise InvalidCall(f"A merge takes three files, BASE OURS THEIRS; found {len(given)}.")
    if continued is not None and given:
        raise InvalidCall("--continue takes one file, and no others.")
    choices = Choices("ours" if ours else "theirs" if theirs else None, choose or [], ask=ask and not as_json)
    if continued is not None:
        return _continue(Path(continued), choices, Path(output or continued), as_json=as_json)
    return _merge([Path(file) for file in given], choices, output, as_json=as_json)


class Choices:
    """What the command line decides: some conflicts by name, the others for one side, or by asking."""

    def __init__(self, always: Side | None, named: list[str], *, ask: bool) -> None:
        from flowmason_ray.cli.merge_dialogue import Dialogue
        from flowmason_ray.cli.terminal import is_terminal
        from flowmason_ray.spec.diff.tree import path_of, pointer_of

        self._named: dict[str, Side] = {}
        for text in named:
            path, _, side = text.rpartition("=")
            self._named[pointer_of(path_of(path))] = _side(side, text)
        self._unused = set(self._named)
        self._always: Side | None = always
        self._seen: list[str] = []
        asks = ask and always is None and is_terminal(sys.stdin) and is_terminal(sys.stderr)
        self._dialogue: Chooser | None = Dialogue() if asks else None

    def __call__(self, conflict: Conflict) -> Side | None:
        """Decide a conflict; None: it stays open."""
        from flowmason_ray.errors import InvalidCall

        self._seen.append(conflict.pointer)
        named = self._named.get(conflict.pointer)
        if named is not None:
            self._unused.discard(conflict.pointer)
            if named not in conflict.choices:
                possible = ", ".join(conflict.choices)
                raise InvalidCall(
                    f"The conflict at {conflict.pointer!r} cannot be decided for {named}; only: {possible}."
                )
            return named
        if self._always is not None:
            return self._always if self._always in conflict.choices else None
        return self._dialogue(conflict) if self._dialogue is not None else None

    def check_all_used(self) -> None:
        """Refuse a `--choose` that named no conflict.

        Raises:
            InvalidCall: there is one.
        """
        from flowmason_ray.errors import InvalidCall, nearest

        for path in sorted(self._unused):
            close = nearest(path, self._seen)
            known = f"there is: {', '.join(dict.fromkeys(self._seen))}" if self._seen else "there is none"
            hint = f" Did you mean {close!r}?" if close else ""
            raise InvalidCall(f"There is no conflict at {path!r}; {known}.{hint}")


def _side(side: str, text: str) -> Side:
    from flowmason_ray.errors import InvalidCall

    for known in SIDES:
        if side == known:
            return known
    raise InvalidCall(f"--choose takes PATH=ours, PATH=theirs or PATH=base; found {text!r}.")


def _merge(files: list[Path], choices: Choices, output: str | None, *, as_json: bool) -> int:
    from flowmason_ray.cli.merge_files import merged_bytes, read_document, validator_of
    from flowmason_ray.cli.terminal import write_bytes
    from flowmason_ray.errors import InvalidPipeline
    from flowmason_ray.spec.merge.merging import merge as merge_documents

    documents: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for n, file in enumerate(files):
        try:
            documents.append(read_document(file, may_be_empty=n == 0))
        except InvalidPipeline as exc:
            problems += exc.problems
    if problems:
        raise InvalidPipeline(problems)
    base, ours, theirs = documents
    merged = merge_documents(base, ours, theirs, validate=validator_of(files[1]), choose=choices)
    choices.check_all_used()
    content = merged_bytes(merged.document, merged.conflicts)
    if output is not None:
        _write(Path(output), content)
    if as_json:
        _print_json(merged.document, merged.conflicts, merged.problems)
    elif output is None:
        write_bytes(content)
    return _report(merged.conflicts, merged.problems, Path(output) if output else None)


def _continue(file: Path, choices: Choices, output: Path, *, as_json: bool) -> int:
    from flowmason_ray.cli.merge_files import merged_bytes, validator_of
    from flowmason_ray.spec.diff.documents import read_exactly
    from flowmason_ray.spec.merge.conflicts import decide, read_conflicts
    from flowmason_ray.spec.reading import read_source

    document, conflicts = read_conflicts(read_exactly(read_source(file)))
    left: list[Conflict] = []
    for conflict in conflicts:
        side = choices(conflict)
        if side is None:
            left.append(conflict)
        else:
            document = decide(document, conflict, side)
    choices.check_all_used()
    if len(left) < len(conflicts) or output != file:
        _write(output, merged_bytes(document, tuple(left)))
    problems = () if left else tuple(p for p in validator_of(file)(document) if p.severity == "error")
    if as_json:
        _print_json(document, tuple(left), problems)
    return _report(tuple(left), problems, output, decided=len(conflicts) - len(left))


def _write(file: Path, content: bytes) -> None:
    from flowmason_ray.cli.fmt_command import replace_file

    replace_file(file, content)


def _print_json(document: dict[str, Any], conflicts: tuple[Conflict, ...], problems: tuple[Problem, ...]) -> None:
    from flowmason_ray.cli.terminal import write_json
    from flowmason_ray.spec.diff.documents import without_spelling

    write_json(
        {
            "clean": not conflicts and not problems,
            "conflicts": [without_spelling(conflict.to_json()) for conflict in conflicts],
            "problems": [problem.to_json() for problem in problems],
            "document": without_spelling(document),
        }
    )


def _report(
    conflicts: tuple[Conflict, ...], problems: tuple[Problem, ...], file: Path | None, *, decided: int = 0
) -> int:
    from flowmason_ray.cli.merge_dialogue import print_conflicts
    from flowmason_ray.cli.problem_report import print_problems
    from flowmason_ray.cli.terminal import note, painter
    from flowmason_ray.cli.words import counted

    paint = painter(sys.stderr)
    print_conflicts(conflicts)
    print_problems(problems)
    done = f"{decided:,} decided, " if decided else ""
    if conflicts:
        where = f" Decide with: fm merge --continue {file}" if file is not None else ""
        note(f"{done}{paint(counted(len(conflicts), 'conflict'), 'red', 'bold')} open.{where}")
    elif problems:
        note(f"{done}nothing is open, but {paint('the result cannot be run', 'red', 'bold')}.")
    else:
        note(f"{done}{paint('merged', 'green', 'bold')}{f': {file}' if file is not None else ''}.")
    return FAILED if conflicts or problems else 0
