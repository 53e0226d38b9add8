"""What databases refuse, told apart by what can be done about it.

By SQLSTATE where there is one (PostgreSQL, appendix A), else by the words of SQLite and of libpq while it connects.
"""

from __future__ import annotations

from flowmason_ray.errors import PermanentError, StageError, TemporaryError

_LATER = ("08", "40", "53", "57P", "58")
"""Connection exceptions, rollbacks (deadlock, serialization), no resources, the operator's intervention, system errors."""
_BROKEN = ("08", "40003", "57P")
"""Connection exceptions, "statement completion unknown", the operator's intervention: the answer to a COMMIT never came."""


def sql_problem(exc: BaseException, where: str) -> StageError:
    """Return the error for what a driver raised.

    Args:
        exc: The driver's exception, not SQLAlchemy's around it: that one repeats statement and values.
        where: Which database, as it reads at the start of a sentence ("Database 'shop'").
    """
    state = str(getattr(exc, "sqlstate", None) or "")
    words = _words(exc)
    lower = words.lower()
    if state == "57014" or lower == "interrupted.":
        return TemporaryError(
            f"{where} was stopped: the statement took longer than 'timeout' allows.", code="sql_timeout"
        )
    if state == "25006" or "readonly database" in lower or "not authorized" in lower or "prohibited" in lower:
        return PermanentError(
            f"{where} was asked to change something, or to open another file, by a query that only reads: {words} "
            "Use sql_execute (or postgres with operation 'execute') for statements that change something.",
            code="sql_read_only",
        )
    if state.startswith("28") or state == "42501" or "authentication failed" in lower:
        return PermanentError(
            f"{where} refuses: {words} Check the connection's user, password and rights.", code="sql_denied"
        )
    if state.startswith("23") or "constraint failed" in lower:
        return PermanentError(f"{where} refuses what would break a constraint: {words}", code="sql_conflict")
    if state.startswith(_LATER) or (not state and _cannot_connect(exc, lower)):
        return TemporaryError(f"{where} cannot be used now: {words}", code="sql_unavailable")
    return PermanentError(f"{where} says: {words}", code="sql_error")


def commit_problem(exc: BaseException, where: str) -> StageError:
    """Return the error for what a driver raised while it committed.

    When the connection breaks then, the server may have committed and only its answer be lost. That is permanent: a retry, of a
    stage or of a destination, would do it twice.

    Args:
        exc: See `sql_problem`.
        where: See `sql_problem`.
    """
    state = str(getattr(exc, "sqlstate", None) or "")
    lite = type(exc).__module__.startswith("sqlite3")
    silent = not state and not lite and type(exc).__name__ in ("OperationalError", "InterfaceError")
    if silent or state.startswith(_BROKEN):
        return PermanentError(
            f"{where} broke off while it was to commit: {_words(exc)} Nobody knows whether the statements took effect: "
            "look there, and run the stage again if they did not.",
            code="sql_in_doubt",
        )
    return sql_problem(exc, where)


def _cannot_connect(exc: BaseException, words: str) -> bool:
    if type(exc).__module__.startswith("sqlite3"):
        return "locked" in words or "busy" in words
    return type(exc).__name__ in ("OperationalError", "ConnectionTimeout", "InterfaceError")


def _words(exc: BaseException) -> str:
    """Return the first line of what it says, as a sentence."""
    diagnosis = getattr(exc, "diag", None)
    said = getattr(diagnosis, "message_primary", None) or str(exc).strip().partition("\n")[0] or type(exc).__name__
    text = str(said).strip()
    return text if text.endswith(".") else f"{text}."
