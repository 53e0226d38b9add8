"""What polars says when something does not fit, in the words of a pipeline's author: the file, the column, the nearest name."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

from flowmason_ray.components.extras import needs
from flowmason_ray.errors import PermanentError, nearest

with needs("The table components", extra="tables"):
    from polars.exceptions import ColumnNotFoundError, DuplicateError, PanicException, PolarsError


def require_columns(wanted: Iterable[str], available: Sequence[str], *, of: str) -> None:
    """Refuse columns that are not there.

    Args:
        wanted: The columns asked for.
        available: The columns that there are.
        of: What they belong to, as it reads in a sentence ("the left table").

    Raises:
        PermanentError: `unknown_column`, with the nearest name and all that there are.
    """
    for name in wanted:
        if name not in available:
            raise unknown_column(name, available, of=of)


def unknown_column(name: str, available: Sequence[str], *, of: str) -> PermanentError:
    """Return the error for a column that is not there."""
    near = nearest(name, available)
    hint = f" Did you mean {near!r}?" if near else ""
    return PermanentError(
        f"There is no column {name!r} in {of}.{hint} It has {shown(available)}.",
        code="unknown_column",
        details={"column": name, "available": list(available)},
    )


def shown(names: Sequence[str]) -> str:
    """Return the names for a message; of many only the first."""
    some = ", ".join(map(repr, names[:20])) or "no columns"
    return f"{some} and {len(names) - 20} more" if len(names) > 20 else some


@contextmanager
def table_errors(doing: str, available: Sequence[str] = (), *, of: str = "the table") -> Generator[None]:
    """Turn what polars raises inside into a `PermanentError`.

    Args:
        doing: What was tried, as the start of a sentence ("Reading 'a.csv'").
        available: The columns that there are, for suggestions.
        of: What they belong to.
    """
    try:
        yield
    except ColumnNotFoundError as exc:
        name, known = _missing_column(str(exc))
        if name is not None:
            raise unknown_column(name, list(available) or known, of=of) from exc
        raise PermanentError(f"{doing} failed: {brief(exc)}", code="unknown_column") from exc
    except DuplicateError as exc:
        raise PermanentError(
            f"{doing} would give two columns of one name: {brief(exc)}", code="duplicate_column"
        ) from exc
    except PolarsError as exc:
        raise PermanentError(f"{doing} failed: {brief(exc)}", code="table_error") from exc
    except PanicException as exc:  # pyright: ignore[reportUnusedExcept]  # at run time it derives from BaseException only
        raise PermanentError(f"{doing} failed inside polars: {brief(exc)}", code="table_error") from exc


def brief(exc: BaseException) -> str:
    """Return the first sentence of what polars says, without its query plan and advice about its own parameters."""
    text = str(exc).strip()
    for rest in ("\n\nResolved plan", "\n\nYou might want", "\n\nConsider "):
        text = text.partition(rest)[0]
    line = " ".join(text.split())
    line = line if len(line) <= 400 else line[:400] + "…"
    return line if line.endswith(".") else line + "."


def _missing_column(text: str) -> tuple[str | None, list[str]]:
    found = re.search(r'unable to find column "([^"]*)"(?:; valid columns: \[(.*?)\])?', text) or re.match(
        r'"?([\w .-]+)"? not found()', text
    )
    if found is None:
        return None, []
    return found[1], re.findall(r'"([^"]*)"', found[2] or "")
