"""What is remembered of batches beside the process that made them, so that a crash does not pay for them twice.

A batch goes on when its process is killed, and its answers can be had for 29 days. So before one is made, a note of what it is about to hold is on
the disk, below `.flowmason/batches/` of the project, and its id as soon as it is known. Whoever asks the same again, as a run does
that is taken up after a crash, finds the note by the request's key, and waits for that batch. A note without an id is of a batch
of which nobody knows whether it was made.

An answer is taken from an earlier batch once for each process: what asks for it again has had it, and wants another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, cast
from uuid import uuid4

FOLDER = Path(".flowmason") / "batches"
KEPT_S = 29 * 86_400
"""How long the API has the results of a batch (Message Batches, "Results")."""


@dataclass(kw_only=True)
class Note:
    """One batch. `requests`: what each is called in it, and a digest of what it asks."""

    file: Path
    at: float
    """When it was about to be made, in seconds since 1970."""
    requests: Mapping[str, str]
    batch: str | None = None


class BatchNotes:
    """The notes of one account in one project. Does blocking I/O of a few milliseconds: for a thread.

    Args:
        project_dir: The project; None: nothing is remembered.
        account: What identifies the service and the key; it is only kept as a digest.
    """

    def __init__(self, project_dir: Path | None, account: str) -> None:
        self._folder = None if project_dir is None else project_dir / FOLDER
        self._account = sha256(account.encode()).hexdigest()[:16]
        self._taken: set[str] = set()

    def intend(self, requests: Mapping[str, str]) -> Note | None:
        """Remember that a batch is about to be made; None where nothing can be written: then a crash is paid for."""
        self._taken.update(requests)
        if self._folder is None:
            return None
        note = Note(file=self._folder / f"{self._account}-{uuid4().hex}.json", at=time(), requests=requests)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(note)
        except OSError:
            return None
        return note

    def made(self, note: Note, batch: str) -> None:
        """Remember which one it is."""
        note.batch = batch
        with suppress(OSError):  # then it is looked for by its intention
            self._write(note)

    def forget(self, note: Note | None) -> None:
        """Let go of one that was never made, or has no answer for anybody."""
        if note is not None:
            with suppress(OSError):
                note.file.unlink(missing_ok=True)

    def known(self, wanted: Mapping[str, str]) -> list[tuple[Note, list[str]]]:
        """Return the earlier batches that hold some of these requests, each with those that it is to answer."""
        left = {name: digest for name, digest in wanted.items() if name not in self._taken}
        found: list[tuple[Note, list[str]]] = []
        for note in self.all() if left else ():
            held = [name for name, digest in left.items() if note.requests.get(name) == digest]
            for name in held:
                del left[name]
            if held:
                self._taken.update(held)
                found.append((note, held))
        return found

    def untaken(self, names: list[str]) -> None:
        """Let requests be looked for once more: their batch could not be asked."""
        self._taken.difference_update(names)

    def all(self) -> Iterator[Note]:
        """Yield the notes, the newest first; what is too old to have answers goes away."""
        if self._folder is None or not self._folder.is_dir():
            return
        notes = [note for file in self._folder.glob(f"{self._account}-*.json") if (note := _read(file)) is not None]
        for note in sorted(notes, key=lambda each: each.at, reverse=True):
            if note.at < time() - KEPT_S:
                self.forget(note)
            else:
                yield note

    @staticmethod
    def _write(note: Note) -> None:
        """Write a note whole or not at all; it is on the disk when this returns."""
        said = {"version": 1, "at": note.at, "batch": note.batch, "requests": dict(note.requests)}
        temporary = note.file.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(note.file)
        folder = os.open(note.file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the name may be lost
        finally:
            os.close(folder)


def digest_of(body: Mapping[str, Any]) -> str:
    """Return what tells whether two requests ask the same."""
    return sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(file: Path) -> Note | None:
    try:
        said: Any = json.loads(file.read_text(encoding="utf-8"))
        requests = cast("Mapping[str, str]", said["requests"])
        return Note(file=file, at=float(said["at"]), batch=said["batch"], requests=requests)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it went away, or is none of ours
