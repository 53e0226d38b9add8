"""A real RabbitMQ for tests, on the loopback, unpacked by `scripts/install_rabbitmq` or installed in the system.

Its start scripts name fixed paths of the system, so Erlang is started here as they would start it. Erlang nodes find each other
through a small server of names, epmd, which a node starts for everybody on the machine and leaves behind: here one is started on a port
of its own, and ended by its process id, as the node is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.servers_kit import PASSWORD, free_port, make_certificate, wait_for

USER = "tester"
MISSING = "AMQP IS NOT TESTED: there is no RabbitMQ. `make rabbitmq` unpacks one (Debian and its kin), or install rabbitmq-server."


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A running server. Its user is `USER` with the password `PASSWORD`."""

    port: int
    tls_port: int
    """With a certificate that nobody has signed."""

    @property
    def url(self) -> str:
        """Its address, without user and password."""
        return f"amqp://127.0.0.1:{self.port}/"


@dataclass(frozen=True, kw_only=True)
class _Programs:
    erlang: Path
    rabbit: Path


def unpacked() -> Path:
    """Return where `scripts/install_rabbitmq` unpacks."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "flowmason" / "rabbitmq" / "root"


def _programs() -> _Programs | None:
    for root in (unpacked(), Path("/")):
        erlang = root / "usr/lib/erlang"
        rabbit = max(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"), default=None)
        if rabbit is not None and any(erlang.glob("erts-*/bin/erlexec")):
            return _Programs(erlang=erlang, rabbit=rabbit)
    return None


def rabbitmq() -> Iterator[Broker]:
    """Start a broker; skip loudly where there is none."""
    programs = _programs()
    if programs is None:
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="fm-rabbitmq-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        try:
            broker = _started(programs, folder / "first", processes)
        except RuntimeError:  # somebody may have taken a port since it was found free
            _end(processes)
            broker = _started(programs, folder / "second", processes)
        yield broker
    finally:
        _end(processes)
        shutil.rmtree(folder, ignore_errors=True)


def _started(programs: _Programs, folder: Path, processes: list[subprocess.Popen[bytes]]) -> Broker:
    """Start a broker in a folder of its own; note what was started in `processes`, also when it fails."""
    folder.mkdir()
    binaries = max(programs.erlang.glob("erts-*/bin"))
    port, tls_port, names_port = free_port(), free_port(), free_port()
    key, certificate = make_certificate(folder, "IP:127.0.0.1")
    environment = _environment(programs, binaries, folder, names_port)
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nlisteners.ssl.1 = 127.0.0.1:{tls_port}\n"
        f"ssl_options.keyfile = {key}\nssl_options.certfile = {certificate}\n"
        f"default_user = {USER}\ndefault_pass = {PASSWORD}\n"
        "log.console = false\ndisk_free_limit.absolute = 1MB\n"
    )
    (folder / "enabled_plugins").write_text("[].\n")
    with (folder / "output").open("wb") as output:
        try:
            for command, ports in (
                ([binaries / "epmd", "-address", "127.0.0.1", "-port", str(names_port)], [names_port]),
                (_command(programs, binaries), [port, tls_port]),
            ):
                processes.append(
                    subprocess.Popen(
                        command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                    )
                )
                for each in ports:
                    wait_for(each, processes[-1])
        except RuntimeError as exc:
            said = (folder / "output").read_text(errors="replace")
            raise RuntimeError(f"RabbitMQ did not start: {said[-4000:]}") from exc
    return Broker(port=port, tls_port=tls_port)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()


def _environment(programs: _Programs, binaries: Path, folder: Path, names_port: int) -> dict[str, str]:
    """Return all that the node is told by its environment: nothing of this process's own but the PATH."""
    return {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(folder),  # Erlang makes its cookie there
        "LANG": "C.UTF-8",
        "ROOTDIR": str(programs.erlang),
        "BINDIR": str(binaries),
        "EMU": "beam",
        "PROGNAME": "erl",
        "ERL_LIBS": str(programs.rabbit / "plugins"),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names_port),
        "ERL_CRASH_DUMP": os.devnull,
        "RABBITMQ_HOME": str(programs.rabbit),
        "RABBITMQ_NODENAME": f"fm-{uuid4().hex[:8]}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_PLUGINS_DIR": str(programs.rabbit / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
    }


def _command(programs: _Programs, binaries: Path) -> list[str | Path]:
    rabbit = max(programs.rabbit.glob("plugins/rabbit-*/ebin"))
    return [
        binaries / "erlexec", "-pa", rabbit, "-noinput", "-s", "rabbit", "boot", "-boot", "start_sasl",
        "+W", "w", "+S", "1:1", "+sbwt", "none", "-start_epmd", "false",
        "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
        "-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false",
    ]  # fmt: skip
