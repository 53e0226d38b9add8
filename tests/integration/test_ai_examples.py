"""The AI examples run: against a scripted server, against real llama.cpp with a tiny model, and against a configured provider.

With random weights what is said is nonsense, but everything that is promised about its form holds, because grammars see to it.
To run them against a real provider set FLOWMASON_TEST_PROVIDER to `anthropic` or `openai` and that provider's key.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import load_pipeline, run
from flowmason_ray.testing.llm_server import Asked, LlmServer
from tests.cli_kit import ROOT
from tests.llama_kit import make_model
from tests.llm_kit import model_server

EXAMPLES = ROOT / "examples" / "ai"
NAMES = sorted(file.name.removesuffix(".pipeline.json") for file in EXAMPLES.glob("*.pipeline.json"))
REAL = os.environ.get("FLOWMASON_TEST_PROVIDER")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the examples, so that what they write stays out of the tree."""
    copy = tmp_path / "ai"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("out", ".flowmason"))
    return copy


def configure(project: Path, **settings: Any) -> None:
    """Add to the project's settings."""
    file = project / "flowmason.json"
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**written, **settings}), encoding="utf-8")


def output_of(project: Path, name: str, **changes: Any) -> dict[str, Any]:
    file = project / f"{name}.pipeline.json"
    result = run(file, {**load_pipeline(file).data["sample_input"], **changes}, max_tokens=200_000)
    assert result.status == "succeeded", result.failure
    assert result.usage["calls"] > 0
    return result.to_json()["output"]


def check(name: str, output: dict[str, Any], project: Path) -> None:
    """Hold an output against what its example promises whatever the model says."""
    if name == "review_loop":
        good = [score >= 8 for score in output["scores"]]
        assert output["passed"] == good[-1]
        assert not any(good[:-1]), "the loop ends at the first draft that is good enough"
        assert output["passed"] or len(good) == 3
        drafts = sorted(file.name for file in (project / "out/drafts").iterdir())
        assert drafts == [f"{n}.md" for n in range(1, len(good) + (0 if output["passed"] else 1) + 1)]
    elif name == "extract_invoices":
        assert output["failed"] == []
        assert [each["file"] for each in output["invoices"]] == ["documents/harbour.txt", "documents/mill.txt"]
        for each in output["invoices"]:
            invoice = each["invoice"]
            assert set(invoice) == {"vendor", "number", "date", "currency", "lines", "total_cents"}
            assert each["adds_up"] == (sum(line["cents"] for line in invoice["lines"]) == invoice["total_cents"])
    else:
        assert output["chunks"] >= 4
        assert all(citation["valid"] for citation in output["citations"])
        assert not output["answered"] or output["citations"]


@pytest.fixture
def server(project: Path) -> Iterator[LlmServer]:
    with model_server() as running:
        configure(project, providers=running.providers(), llm_settings={"provider": "openai"})
        yield running


def test_every_ai_example_is_tested_here():
    assert NAMES == ["ask_handbook", "extract_invoices", "review_loop"]


def test_the_review_loop_ends_when_the_draft_is_good_enough(project: Path, server: LlmServer):
    def judged(score: int) -> dict[str, Any]:
        scores = {"criterion_1": score, "criterion_2": score}
        return {
            "feedback": "f",
            "strengths": [],
            "improvements": ["shorter"],
            "criteria_scores": scores,
            "score": score,
        }

    server.says("First draft.")
    server.says_json(judged(5))
    server.says_json({"content": "Second draft.", "changes": []})
    server.says_json(judged(9))
    output = output_of(project, "review_loop")
    assert output == {"text": "Second draft.", "passed": True, "scores": [5.0, 9.0]}
    check("review_loop", output, project)
    assert server.unused == 0
    assert "- shorter" in server.requests[2].last, "the improver is told what the critic says"
    assert "Second draft." in server.requests[3].last


def test_the_review_loop_ends_after_its_rounds(project: Path, server: LlmServer):
    server.answer = _never_satisfied
    output = output_of(project, "review_loop", max_rounds=2)
    assert output == {"text": "Better.", "passed": False, "scores": [2.0, 2.0]}


def _never_satisfied(asked: Asked) -> str:
    if asked.schema is None:
        return "Draft."
    if "changes" in asked.schema["properties"]:
        return json.dumps({"content": "Better.", "changes": []})
    scores = {"criterion_1": 2, "criterion_2": 2}
    lists: dict[str, list[str]] = {"strengths": [], "improvements": []}
    return json.dumps({"feedback": "f", **lists, "criteria_scores": scores, "score": 2})


def test_invoices_are_read_and_checked(project: Path, server: LlmServer):
    lines = [{"text": "notebooks", "cents": 5400}, {"text": "pencils", "cents": 1850}]
    rest = {"vendor": "H", "number": "1", "date": "2024-06-03", "currency": "EUR"}
    right = {**rest, "lines": lines, "total_cents": 7250}
    server.says_json(right, match=partial(_mentions, "HARBOUR"))
    server.says_json({**rest, "lines": [], "total_cents": 3850}, match=partial(_mentions, "Mill"))
    output = output_of(project, "extract_invoices")
    check("extract_invoices", output, project)
    assert [each["adds_up"] for each in output["invoices"]] == [True, False]
    assert output["invoices"][0]["invoice"] == right


def _mentions(word: str, asked: Asked) -> bool:
    return word in asked.last


def test_the_handbook_answers_with_citations_that_hold(project: Path, server: LlmServer):
    def answer(asked: Asked) -> str:
        if asked.schema is None:
            return ""  # it asks for vectors
        before = asked.last.split("Parental leave lasts ninety")[0]
        number = int(re.findall(r"\[(\d+)\]", before)[-1])
        quote = "Parental leave lasts ninety days"
        cited = [{"source": number, "quote": quote}, {"source": 9, "quote": "made up"}]
        return json.dumps({"answer": f"Ninety [{number}].", "answered": True, "citations": cited})

    server.answer = answer
    output = output_of(project, "ask_handbook")
    check("ask_handbook", output, project)
    assert output["answered"]
    (citation,) = output["citations"]
    assert citation["source"] == "handbook/leave.md"


@pytest.mark.ray
def test_an_edited_prompt_goes_where_its_stage_goes(project: Path, server: LlmServer, ray_cluster: str):
    """A worker asks with the text that the plan settled, whatever it finds in its own files."""
    prompt = project / "prompts" / "extractor" / "v1.md"
    prompt.parent.mkdir(parents=True)
    prompt.write_text("# user\nThe house's own words: {{ text }}", encoding="utf-8")
    file = project / "extract_invoices.pipeline.json"
    result = run(file, load_pipeline(file).data["sample_input"], on="ray")
    assert result.status == "succeeded", result.failure
    assert len(server.requests) == 2
    assert all(asked.last.startswith("The house's own words:") for asked in server.requests)
    assert result.usage["calls"] == 2


@pytest.mark.llama
@pytest.mark.parametrize("name", NAMES)
def test_an_ai_example_runs_on_a_tiny_model(project: Path, name: str):
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: 'make llama' does it", exc_type=ImportError)
    make_model(project / "tiny.gguf", brief=True)
    tiny = {"type": "llama_cpp", "model_path": "tiny.gguf", "context_tokens": 8192}
    configure(project, providers={"tiny": tiny}, llm_settings={"seed": 1})
    check(name, output_of(project, name), project)


@pytest.mark.skipif(REAL is None, reason="FLOWMASON_TEST_PROVIDER names no provider: it costs money")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_an_ai_example_runs_on_a_configured_provider(project: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    if name == "ask_handbook" and REAL == "anthropic":
        pytest.skip("Anthropic makes no vectors")
    monkeypatch.setenv("FLOWMASON_PROVIDER", str(REAL))
    check(name, output_of(project, name), project)
