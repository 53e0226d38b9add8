"""Connections to a PostgreSQL run store: opening them, seeing that the tables are ours, and errors in clear words.

Everything lies in the schema `flowmason` of the database, beside whatever else is in there. The tables are made and changed by
`fm db upgrade` alone: a database is shared, and who merely runs a pipeline may have neither the right nor the moment to do that.

Passwords are never shown: addresses are printed without them, and they are blotted out of what the server says.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from flowmason_ray.errors import MissingExtra, StoreError, StoreUnavailable
from flowmason_ray.stores.group_commit import ConnectionLost
from flowmason_ray.stores.sqlite_files import SCHEMA_REVISION

try:
    import psycopg
    from psycopg import errors, sql
    from psycopg.conninfo import conninfo_to_dict
except ImportError as missing:  # also when libpq is not there
    raise MissingExtra(feature="A run log in PostgreSQL", extra="postgres", module="psycopg") from missing

SCHEMES = ("postgresql", "postgres")
SCHEMA_NAME = "flowmason"
NOW = "extract(epoch FROM clock_timestamp())::float8"
"""Seconds since the epoch, by the clock of the server: the store's time."""
CONNECT_TIMEOUT_S = 10
"""How long is waited for a server that does not answer at all."""
_DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "flowmason",
    # A peer that is gone without a word (a pulled cable) is noticed within a minute, one that takes nothing in 20 s.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}

Connection = psycopg.Connection[tuple[Any, ...]]

_HINTS = {
    "password authentication failed": "Check user and password; they may also be in PGUSER, PGPASSWORD or ~/.pgpass.",
    "no password supplied": "Give one in the URL, in PGPASSWORD or in ~/.pgpass.",
    "does not exist": "Make it ('createdb'), or correct the URL.",
    "could not translate host name": "There is no such host.",
    "name or service not known": "There is no such host.",
    "failed to resolve host": "There is no such host.",
    "connection refused": "No server listens there, or it is down.",
    "no such file or directory": "No server listens there, or it is down.",
    "starting up": "The server is just starting.",
    "too many connections": "The server takes no more connections.",
    "too many clients": "The server takes no more connections.",
    "no pg_hba.conf entry": "The server lets nobody in from here with this user and database.",
    "permission denied": "This user may not use the schema 'flowmason'; whoever ran 'fm db upgrade' can grant it.",
    "could not extend file": "The server's disk is full: make room; what was acknowledged is in the log.",
    "no space left": "The server's disk is full: make room; what was acknowledged is in the log.",
}
_FINAL = ("password authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")
"""What trying again does not help against."""
_RETRIED = frozenset({"57P01", "57P02", "57P03", "25006", "55P03"})
"""The server shuts down, has crashed, starts; is (still) read-only after a failover; an old connection holds the run's row."""


_NO_URL = (
    "The address of the run log is no valid URL. It looks like postgresql://user:password@host:5432/database; in user and "
    "password, characters such as '@', '/' and '%' are written as %40, %2F and %25."
)


class Address:
    """Where the database is: the URL, and how it is shown."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            StoreError: it is no URL of a PostgreSQL database.
        """
        try:
            facts = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
        except psycopg.ProgrammingError:
            raise StoreError(_NO_URL) from None
        ports = facts.get("port", "")
        if not all(each.isdigit() for each in ports.split(",") if each):
            raise StoreError(_NO_URL)
        self.url = url
        self._password = facts.get("password", "")
        user = f"{facts['user']}@" if "user" in facts else ""
        self.shown = (
            f"postgresql://{user}{facts.get('host', '')}{f':{ports}' if ports else ''}/{facts.get('dbname', '')}"
        )

    def __str__(self) -> str:
        return self.shown

    def without_password(self, text: str) -> str:
        """Return a text of the server's or the library's in which the password does not stand."""
        for each in {self._password, self.url}:
            if each:
                text = text.replace(each, "***")
        return text


@contextmanager
def clear_errors(address: Address, doing: str, connection: Connection | None = None) -> Generator[None]:
    """Turn what PostgreSQL says into errors of ours: `ConnectionLost` when trying again may help."""
    try:
        yield
    except psycopg.Error as exc:
        # The first line says it; what follows is about the other addresses of the same host.
        said = address.without_password(str(exc)).strip()
        text = " ".join(said.split("\n")[0].split()) or type(exc).__name__
        if isinstance(exc, errors.UndefinedTable):
            raise StoreError(_no_tables(address)) from None
        hint = next((hint for words, hint in _HINTS.items() if words in said.lower()), "")
        message = f"Cannot {doing} the run log {address}: {text.rstrip('.')}. {hint}".rstrip()
        gone = connection is None or connection.closed or exc.sqlstate in _RETRIED
        if isinstance(exc, (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)) and gone:
            final = exc.sqlstate not in _RETRIED and any(words in said.lower() for words in _FINAL)
            raise (StoreUnavailable if final else ConnectionLost)(message) from None
        raise StoreUnavailable(message) from None


def connect(address: Address, *, checked: bool = True) -> Connection:
    """Open a connection in autocommit mode.

    Args:
        address: Where.
        checked: Whether the tables have to be there, and of our revision.

    Raises:
        StoreError: they are not; says what to do.
        StoreUnavailable: the server is not there, or lets nobody in.
    """
    given = conninfo_to_dict(address.url)
    defaults = {name: value for name, value in _DEFAULTS.items() if name not in given}
    with clear_errors(address, "open"):
        connection = psycopg.connect(address.url, autocommit=True, **defaults)
    try:
        with clear_errors(address, "open", connection):
            connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(SCHEMA_NAME)))
            # A server may be told not to wait for its disk; a run log has to.
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
            )
            if checked:
                check_revision(address, revision(connection))
    except BaseException:
        connection.close()
        raise
    return connection


def revision(connection: Connection) -> int:
    """Return the revision of the tables; 0: there are none."""
    found = connection.execute("SELECT to_regclass('alembic_version')").fetchone()
    if found is None or found[0] is None:
        return 0
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return int(row[0]) if row else 0


def check_revision(address: Address, found: int) -> None:
    """Make sure that tables of this revision can be used.

    Raises:
        StoreError: they cannot.
    """
    if found == 0:
        raise StoreError(_no_tables(address))
    if found < SCHEMA_REVISION:
        raise StoreError(
            f"The run log {address} has schema revision {found}; this FlowMason needs {SCHEMA_REVISION}. Bring it up to date "
            "with 'fm db upgrade', when nothing older is writing to it any more."
        )
    if found > SCHEMA_REVISION:
        raise StoreError(
            f"The run log {address} has schema revision {found}; this FlowMason knows up to {SCHEMA_REVISION}. Upgrade it."
        )


def _no_tables(address: Address) -> str:
    return (
        f"The database {address} holds no run log yet. 'fm db upgrade' makes its tables, in a schema of their own "
        f"({SCHEMA_NAME!r})."
    )


def close(connection: Connection | None) -> None:
    """Close a connection, also one that is broken."""
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()
