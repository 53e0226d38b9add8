"""Real git repositories for tests, apart from the configuration of whoever runs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flowmason_ray.spec.formatting import canonical_bytes
from tests.cli_kit import ROOT, Done, command

Document = dict[str, Any]
FILE = "p.pipeline.json"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository in a directory of its own."""

    root: Path

    @classmethod
    def create(cls, directory: Path, *, drivers: bool = True) -> Repository:
        """Return an empty repository; with `drivers`, `fm git install` has been run in it."""
        root = directory / "repository"
        root.mkdir(parents=True)
        (directory / "home").mkdir(exist_ok=True)
        made = cls(root)
        made.git("init", "-q", "-b", "main")
        made.git("config", "user.name", "Test")
        made.git("config", "user.email", "test@example.com")
        if drivers:
            assert made.fm("git", "install").code == 0
        return made

    @property
    def environment(self) -> dict[str, str]:
        """The environment of git and fm here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        home = str(self.root.parent / "home")
        return {**kept, "HOME": home, "XDG_CONFIG_HOME": f"{home}/.config", "PYTHONPATH": str(ROOT), "NO_COLOR": "1",
                "GIT_CONFIG_NOSYSTEM": "1", "GIT_EDITOR": "true", "LC_ALL": "C.UTF-8"}  # fmt: skip

    def run(self, arguments: list[str], *, cwd: Path | None = None) -> Done:
        """Run a program here."""
        done = subprocess.run(arguments, cwd=cwd or self.root, env=self.environment, capture_output=True, timeout=100)
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def git(self, *arguments: str, fails: bool = False) -> str:
        """Run git and return what it prints on both streams."""
        done = self.run(["git", *arguments])
        assert (done.code != 0) == fails, f"git {arguments} exits {done.code}:\n{done.out}{done.err}"
        return done.out + done.err

    def fm(self, *arguments: str) -> Done:
        """Run fm."""
        return self.run(command(*arguments))

    def write(self, document: Mapping[str, Any], name: str = FILE) -> None:
        """Write a pipeline."""
        (self.root / name).write_bytes(canonical_bytes(document))

    def read(self, name: str = FILE) -> Document:
        """Read a pipeline, or whatever JSON there is."""
        return cast("Document", json.loads((self.root / name).read_bytes()))

    def commit(self, message: str, document: Mapping[str, Any] | None = None, name: str = FILE) -> None:
        """Commit everything that changed, after writing a pipeline."""
        if document is not None:
            self.write(document, name)
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "-m", message)

    def fork(self, base: Document, ours: Document, theirs: Document) -> None:
        """Make a history: the branches `main` and `side` both come from the base; `main` is checked out."""
        self.commit("base", base)
        self.git("checkout", "-q", "-b", "side")
        self.commit("theirs", theirs)
        self.git("checkout", "-q", "main")
        self.commit("ours", ours)
