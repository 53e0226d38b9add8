"""Every error that FlowMason raises, and the two shapes that errors take as data.

    FlowMasonError                  code, message; the root of the tree
    ├── InvalidPipeline             a file that cannot be run: `problems`, each with file, line, path
    ├── InvalidInput                an input that misses the pipeline's `input_schema`: `problems`
    ├── InvalidCall                 the command line or the API was called wrongly
    ├── MissingExtra                an optional dependency is not installed: names the extra
    ├── StoreError                  a run log or blob store cannot do what was asked
    │   ├── StoreUnavailable        cannot be opened, read or written (also: disk full)
    │   ├── RunNotFound             no such run, or the id is ambiguous
    │   └── Fenced                  another coordinator holds the run's lease
    ├── RunFailed                   raised on request for a run that did not succeed: `failure`
    └── StageError                  ends an attempt of a stage
        ├── PermanentError          stage authors: do not retry
        ├── TemporaryError          stage authors: retry, optionally after `delay`
        └── ExpressionError         a template or an expression could not be evaluated

`Problem` is what static checks report (many at once); `Failure` is how an attempt or a run ended (recorded in the log).
Both are plain data with a JSON form, so that the CLI, HTTP and editors show the same facts. Codes are stable, snake_case.

All errors pickle and round-trip (`tests/unit/test_errors.py`), because they cross process borders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with what somebody wrote.

    `path` is a JSON pointer into the document (RFC 6901; "" is the whole document); `line` and `column` count from 1;
    `excerpt` is the line of the file and, under it, a caret (for text that does not parse).
    """

    code: str
    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    expected: str | None = None
    found: str | None = None
    nearest: str | None = None
    hint: str | None = None
    excerpt: str | None = None
    chain: tuple[str, ...] | None = None
    """For a value that a pipeline inherits: where it was written and overridden (`file:line` each), the effective place last,
    then the file of the pipeline that inherits it. None for a value of the pipeline's own file."""
    severity: Literal["error", "warning"] = "error"

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable form: every field that is set."""
        data = {k: v for k, v in asdict(self).items() if v is not None}
        return data if self.chain is None else {**data, "chain": list(self.chain)}

    def where(self) -> str:
        """Return `file:line:column`, as far as it is known, in the form that terminals and editors make clickable."""
        parts = [self.file or "", str(self.line or ""), str(self.column or "")]
        while parts and not parts[-1]:
            parts.pop()
        return ":".join(parts)

    def __str__(self) -> str:
        where = self.where()
        text = f"{where}: {self.message}" if where else self.message
        if self.nearest:
            text += f" Did you mean {self.nearest!r}?"
        if self.hint:
            text += f" {self.hint}"
        if self.chain:
            text += f" ({inherited(self.chain)})"
        text += f" [{self.code}]"
        return f"{text}\n{self.excerpt}" if self.excerpt else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """How an attempt, a stage or a run failed, as it is recorded in the run log and read by `{{stages.x.error}}`.

    `stage` is the path of the stage instance ("" for the run itself); `attempts` how many were made; `error_type` the
    exception's class name where there was one; `traceback` the frames in the component's own code, shortened.
    """

    code: str
    message: str
    stage: str = ""
    attempts: int = 1
    error_type: str | None = None
    traceback: str | None = None
    retry_after_s: float | None = None
    details: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every field that is set."""
        return {k: v for k, v in asdict(self).items() if v is not None}


class FlowMasonError(Exception):
    """The root of the tree. `code` is stable and machine-readable; subclasses set it."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    """What the command line exits with: 1 something failed, 2 the call or the pipeline is invalid."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses have keyword-only facts: rebuild without calling __init__, so that nothing is lost across processes.
        return (_rebuild, (type(self), self.args, self.__dict__))

    def to_json(self) -> dict[str, Any]:
        """Return the error as one JSON document: code, message, and the subclass's facts."""
        return {"code": self.code, "message": self.message}


def _rebuild(cls: type[FlowMasonError], args: tuple[Any, ...], facts: dict[str, Any]) -> FlowMasonError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class _WithProblems(FlowMasonError):
    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    def to_json(self) -> dict[str, Any]:
        """Return the problems besides code and message."""
        return {**super().to_json(), "problems": [p.to_json() for p in self.problems]}


class InvalidPipeline(_WithProblems):
    """A pipeline that cannot be loaded or planned. `problems` holds everything that was found, not only the first."""

    code = "invalid_pipeline"


class InvalidInput(_WithProblems):
    """An input that does not fit the pipeline's `input_schema`. `problems` holds every violation."""

    code = "invalid_input"


class InvalidCall(FlowMasonError):
    """The command line or the Python API was called with something that cannot work."""

    code = "invalid_call"
    exit_code = 2


class MissingExtra(FlowMasonError):
    """An optional dependency is needed and not installed."""

    code = "missing_extra"
    exit_code = 2

    def __init__(self, *, feature: str, extra: str, module: str) -> None:
        self.feature, self.extra, self.module = feature, extra, module
        super().__init__(
            f"{feature} needs the module {module!r}, which is not installed. Install it with: pip install 'flowmason-ray[{extra}]'"
        )


class StoreError(FlowMasonError):
    """A run log or a blob store cannot do what was asked."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The store cannot be opened, read or written; nothing that was acknowledged is lost."""

    code = "store_unavailable"


class RunNotFound(StoreError):
    """There is no run with that id, or a shortened id fits several."""

    code = "run_not_found"
    exit_code = 2


class Fenced(StoreError):
    """Another coordinator has taken over this run; what this one still says is refused."""

    code = "fenced"


class RunFailed(FlowMasonError):
    """A run that did not succeed. `failure` names stage, attempts and cause."""

    code = "run_failed"

    def __init__(self, failure: Failure, *, run_id: str) -> None:
        self.failure, self.run_id = failure, run_id
        place = place_of(failure.stage)
        where = f"{place[0].upper()}{place[1:]}: " if failure.stage else ""
        super().__init__(f"{where}{failure.message} [{failure.code}]")

    def to_json(self) -> dict[str, Any]:
        """Return the run's id and its failure besides code and message."""
        return {**super().to_json(), "run_id": self.run_id, "failure": self.failure.to_json()}


class StageError(FlowMasonError):
    """Ends an attempt. Components raise one of the subclasses to say more than `an exception happened`."""

    code = "component_error"

    def __init__(self, message: str, *, code: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details
        if code is not None:
            self.code = code  # pyright: ignore[reportAttributeAccessIssue]  # an instance may be more precise than its class


class PermanentError(StageError):
    """Retrying cannot help: the stage fails at once, whatever its retry policy says."""

    code = "permanent_error"


class TemporaryError(StageError):
    """Retrying may help: the retry policy applies; `delay`, when given, is at least how long to wait."""

    code = "temporary_error"

    def __init__(
        self,
        message: str,
        *,
        delay: timedelta | None = None,
        code: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.delay = delay


class ExpressionError(StageError):
    """A template or an expression could not be evaluated on the values it met.

    Codes: `expression_error` (wrong types, division by zero, …), `missing_value` (a path that is not there and has no
    default), `expression_budget` (too many steps or too large a result).
    """

    code = "expression_error"


def place_of(path: str) -> str:
    """Return the path of a stage instance in words: `stage 'each[3]/load'`, `the result of 'sub'`, `the run`.

    A scope's result is made by a stage that nobody wrote (`$output`, `$collect`), and so is what a composition keeps of one
    (`$mapped`); its name is no word for people.
    """
    around, _, name = path.rpartition("/")
    if not name.startswith("$"):
        return f"stage {path!r}" if path else "the run"
    if name == "$mapped":
        return f"the output mapping of {around!r}"
    return f"the result of {around!r}" if around else "the result"


def inherited(chain: Sequence[str]) -> str:
    """Return `Problem.chain` in words: `written in base:12, overridden in mid:9, inherited by child`."""
    *places, heir = chain
    words = [f"written in {places[0]}", *(f"overridden in {place}" for place in places[1:])]
    return ", ".join(words if places[-1].startswith(f"{heir}:") else [*words, f"inherited by {heir}"])


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that `name` is most likely a misspelling of, or None when nothing is close."""
    by_lower = {c.lower(): c for c in candidates}
    found = _closest(name.lower(), tuple(by_lower))
    return None if found is None else by_lower[found]


@lru_cache(maxsize=64)  # the same slip is often made all over a file
def _closest(name: str, candidates: tuple[str, ...]) -> str | None:
    found = get_close_matches(name, candidates, n=1, cutoff=0.6)
    return found[0] if found else None


class Suggestions:
    """Nearest names among very many: the first ones asked for get a suggestion, a whole file of mistakes does not.

    Comparing takes about 10 µs per candidate, so ten thousand wrong names among ten thousand right ones would take a quarter of
    an hour.
    """

    MOST_COMPARISONS = 200_000

    def __init__(self, candidates: Iterable[str]) -> None:
        self._candidates = list(candidates)
        self._left = self.MOST_COMPARISONS

    def nearest(self, name: str, *, but: str | None = None) -> str | None:
        """Return the nearest name; None when nothing is close, or too much has been compared already."""
        if self._left <= 0:
            return None
        self._left -= len(self._candidates)
        return nearest(name, (c for c in self._candidates if c != but))
