"""Documents, retrieval, compliance and MCP as stages of runs: with a model server and an MCP server on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.api import RunResult
from flowmason_ray.components.registry import Registry
from flowmason_ray.testing.llm_server import LlmServer
from flowmason_ray.wiring import open_workspace
from tests.documents_kit import pdf_bytes, write_docx
from tests.mcp_kit import stdio_settings
from tests.retrieval_kit import is_completion, server

__all__ = ["server"]


EXAMPLES = (
    "document_reader", "chunker", "index_documents", "retriever", "knowledge_query", "policy_lookup", "rule_checker",
    "compliance_evaluator", "mcp_list_tools", "mcp_tool_call",
)  # fmt: skip
INDEX = {"id": "index", "component_type": "index_documents"}


@pytest.fixture
def project(server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUR_KEY", "k-secret-98765")
    settings = {
        "providers": server.providers(max_retries=0),
        "llm_settings": {"provider": "openai"},
        "mcp_servers": {"notes": stdio_settings(env={"NOTES_KEY": {"secret": "OUR_KEY"}})},
    }
    (tmp_path / "flowmason.json").write_text(json.dumps(settings))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "handbook.md").write_text("# Leave\n\nEverybody has thirty days of leave.\n")
    (tmp_path / "docs" / "pay.pdf").write_bytes(pdf_bytes(["Pay comes monthly.", "Bonus comes in May."]))
    write_docx(tmp_path / "docs" / "travel.docx")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "gifts.md").write_text("# Gifts\n\nNo gift above 50 euros.\n")
    return tmp_path


def ran(project: Path, stages: list[dict[str, Any]], output: Any = None, **more: Any) -> RunResult:
    file = project / "test.pipeline.json"
    written = {"name": "Test", "stages": stages, **({} if output is None else {"output": output})}
    file.write_text(json.dumps(written))
    return run(file, **more)


def example_of(name: str) -> dict[str, Any]:
    spec = Registry(entry_points=False).get(name)
    assert spec is not None
    return spec.input_model.model_json_schema()["examples"][0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, project: Path, server: LlmServer) -> None:
    stages: list[dict[str, Any]] = [{"id": "example", "component_type": name, "config": example_of(name)}]
    if name in ("retriever", "knowledge_query"):  # they search what the example of index_documents stores
        stages = [{**INDEX, "config": example_of("index_documents")}, {**stages[0], "depends_on": ["index"]}]
    if name == "knowledge_query":
        said = {"answer": "Thirty [1].", "answered": True, "citations": [{"source": 1, "quote": "thirty days"}]}
        server.says_json(said, match=is_completion)
    result = ran(project, stages).raise_for_status()
    assert result.stages["example"].status == "succeeded"


ALL_FILES = [
    {
        "id": "each",
        "component_type": "foreach",
        "config": {
            "items": ["docs/handbook.md", "docs/pay.pdf", "docs/travel.docx"],
            "loop_stages": ["read"],
            "item_variable": "file",
        },
    },
    {"id": "read", "component_type": "document_reader", "config": {"path": "{{ file }}"}},
    {
        **INDEX,
        "config": {"documents": "{{ stages.each.results }}", "strategy": "sentences", "chunk_size": 1},
        "depends_on": ["each"],
    },
]


def test_from_files_to_a_citation_that_points_into_one(project: Path, server: LlmServer) -> None:
    said = {"answer": "In May [1].", "answered": True, "citations": [{"source": 1, "quote": "bonus comes in may."}]}
    server.says_json(said, match=is_completion)
    ask = {
        "id": "ask",
        "component_type": "knowledge_query",
        "config": {"query": "Bonus comes in May.", "top_k": 2, "filters": {"source": "docs/pay.pdf"}},
        "depends_on": ["index"],
    }
    result = ran(
        project, [*ALL_FILES, ask], {"answer": "{{ stages.ask }}", "index": "{{ stages.index }}"}
    ).raise_for_status()
    (citation,) = result.output["answer"]["citations"]
    assert (citation["valid"], citation["source"], citation["page"]) == (True, "docs/pay.pdf", 2)
    assert result.output["index"]["documents"] == ["docs/handbook.md", "docs/pay.pdf", "docs/travel.docx"]
    read = ran(project, [{"id": "read", "component_type": "document_reader", "config": {"path": "docs/pay.pdf"}}])
    assert read.output["text"][citation["start"] : citation["end"]] == "Bonus comes in May."
    assert result.usage["calls"] >= 3


def test_a_second_run_indexes_nothing_again(project: Path, server: LlmServer) -> None:
    first = ran(project, ALL_FILES, "{{ stages.index }}").raise_for_status().output
    before = len(server.requests)
    again = ran(project, ALL_FILES, "{{ stages.index }}").raise_for_status().output
    assert first["indexed"] == first["total"] == again["unchanged"] > 5
    assert again["indexed"] == 0
    assert len(server.requests) == before


def test_a_servers_secret_is_masked_in_the_log_and_in_errors(project: Path) -> None:
    store = open_workspace(project).store()
    stages: list[dict[str, Any]] = [
        {"id": "who", "component_type": "mcp_tool_call", "config": {"server": "notes", "tool": "whoami"}},
        {
            "id": "loud",
            "component_type": "mcp_tool_call",
            "config": {"server": "notes", "tool": "{{ stages.who.content }}"},
        },
    ]
    result = ran(project, stages, store=store)
    assert result.status == "failed"
    assert result.failure is not None
    assert result.failure.code == "unknown_tool"
    assert "My key is" in result.failure.message
    recorded = b"".join(p.read_bytes() for p in (project / ".flowmason").rglob("*") if p.is_file())
    assert b"My key is" in recorded
    assert b"k-secret-98765" not in recorded


def test_a_call_that_may_be_repeated_is_and_any_other_is_not(project: Path) -> None:
    def attempts(tool: str, arguments: dict[str, Any], timeout_s: float | None, **more: Any) -> tuple[str, int]:
        stage = {
            "id": "call",
            "component_type": "mcp_tool_call",
            "config": {"server": "notes", "tool": tool, "arguments": arguments, "timeout": timeout_s},
            "retry": {"max_attempts": 2},
            **more,
        }
        failure = ran(project, [stage]).failure
        assert failure is not None
        return failure.code, failure.attempts

    assert attempts("slow_look", {"seconds": 600}, timeout_s=6, effect="idempotent") == ("mcp_timeout", 2)
    assert attempts("die", {}, timeout_s=None) == ("mcp_in_doubt", 1)


@pytest.mark.parametrize(
    ("library", "config", "extra", "module"),
    [
        ("pypdf", {"path": "docs/pay.pdf"}, "documents", "pdf"),
        ("docx", {"path": "docs/travel.docx"}, "documents", "docx"),
    ],
)
def test_a_missing_library_names_its_extra(
    library: str, config: dict[str, Any], extra: str, module: str, project: Path, absent: Callable[..., None]
) -> None:
    absent(library, forget=[f"flowmason_ray.components.documents.{module}"])
    failure = ran(project, [{"id": "read", "component_type": "document_reader", "config": config}]).failure
    assert failure is not None
    assert failure.code == "missing_extra"
    assert f"flowmason-ray[{extra}]" in failure.message


def test_without_the_extra_there_is_no_embedded_store(project: Path, absent: Callable[..., None]) -> None:
    absent("apsw", forget=["flowmason_ray.components.vectors.sqlite"])
    failure = ran(project, [{**INDEX, "config": example_of("index_documents")}]).failure
    assert failure is not None
    assert (failure.code, "flowmason-ray[retrieval]" in failure.message) == ("missing_extra", True)
