"""A pipeline that two teams work on: answers to support tickets. Valid as it is, and after each edit that is made here."""

from __future__ import annotations

import copy
from typing import Any, cast

Document = dict[str, Any]

PROMPT = (
    "You answer a customer of a shop for bicycles. Be polite and short. Say what happens next and when. "
    "Never promise a refund. The ticket: {{ stages.clean.value }}"
)


def support() -> Document:
    """Return the pipeline as both teams found it."""
    return {
        "name": "Support",
        "version": "1.2.0",
        "description": "Answers tickets.",
        "tags": ["support"],
        "input_schema": {
            "type": "object",
            "properties": {"ticket": {"type": "string"}, "kind": {"type": "string", "default": "question"}},
            "required": ["ticket"],
        },
        "stages": [
            _set("clean", "{{ input.ticket | trim }}", position={"x": 0, "y": 0}),
            {
                "id": "triage",
                "component_type": "router",
                "config": {
                    "value": "{{ input.kind }}",
                    "routes": {"bug": ["file_bug"], "question": ["answer"]},
                    "default_route": ["ask_back"],
                },
                "depends_on": ["clean"],
            },
            _log("file_bug", "A bug: {{ stages.clean.value }}"),
            _log("answer", PROMPT),
            _log("ask_back", "What kind of ticket is this?"),
            _set("words", "{{ stages.clean.value | length }}"),
            _log("report", "Ticket of {{ stages.words.value }} characters is done.", after=["triage"]),
        ],
    }


def _set(name: str, value: Any, **more: Any) -> Document:
    return {"id": name, "component_type": "variable_set", "config": {"name": name, "value": value}, **more}


def _log(name: str, message: str, *, after: list[str] | None = None, **more: Any) -> Document:
    made: Document = {"id": name, "component_type": "logger", "config": {"message": message}, **more}
    return {**made, "depends_on": after} if after else made


log, variable = _log, _set


def at(document: Document, stage: str) -> Document:
    """Return a stage of a document, to be changed."""
    return next(s for s in cast("list[Document]", document["stages"]) if s["id"] == stage)


def without(document: Document, *stages: str) -> Document:
    """Return a document without some stages."""
    return {**document, "stages": [s for s in document["stages"] if s["id"] not in stages]}


def renamed(document: Document, old: str, new: str) -> Document:
    """Return a document in which somebody has renamed a stage with an editor: the id, and wherever it is read or routed to."""
    import json

    text = json.dumps(document).replace(f'"{old}"', f'"{new}"').replace(f"stages.{old}.", f"stages.{new}.")
    made = cast("Document", json.loads(text))
    config = cast("Document", at(made, new)["config"])
    return made if "name" not in config else {**made, "stages": [_renamed_back(s, old, new) for s in made["stages"]]}


def _renamed_back(stage: Document, old: str, new: str) -> Document:
    config = cast("Document", stage["config"])
    return {**stage, "config": {**config, "name": old}} if stage["id"] == new else stage


def copies(document: Document) -> tuple[Document, Document, Document]:
    """Return three copies: base, ours and theirs."""
    return copy.deepcopy(document), copy.deepcopy(document), copy.deepcopy(document)
