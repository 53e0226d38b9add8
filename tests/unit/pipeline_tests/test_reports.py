"""The report as JUnit XML and JSON, the schema for editors, and the guide."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from flowmason_ray.pipeline_tests.cases import Case
from flowmason_ray.pipeline_tests.json_schema import SCHEMA_FILE
from flowmason_ray.pipeline_tests.junit import junit
from flowmason_ray.pipeline_tests.operators import OPERATORS
from flowmason_ray.pipeline_tests.reading import read_cases
from tests.unit.pipeline_tests.kit import run, write

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs/guide/testing.md").read_text(encoding="utf-8")
NASTY = "<a & \"b\"> 'c' \x00\x1b[31m \ud7ff ☃ ]]>"


def report_of(folder: Path):
    cases: list[dict[str, Any]] = [
        {"name": "good", "sample": True},
        {"name": NASTY, "sample": True, "assertions": [{"path": "$.output", "value": NASTY, "message": NASTY}]},
        {"name": "later", "skip": NASTY},
    ]
    broken = folder / "broken.test.json"
    broken.write_text("{")
    return run(write(folder, cases), broken)


def test_junit_is_well_formed_and_complete(tmp_path: Path):
    root = ElementTree.fromstring(junit(report_of(tmp_path)))
    assert root.tag == "testsuites"
    assert {k: root.attrib[k] for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    good, bad, later = root.findall("testsuite[1]/testcase")
    clean = NASTY.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert (good.attrib["name"], list(good)) == ("good", [])
    assert bad.attrib["name"] == clean
    failure = bad.find("failure")
    assert failure is not None
    assert failure.attrib["type"] == "equals"
    assert clean in (failure.text or "")
    skipped = later.find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == clean
    error = root.find("testsuite[2]/testcase/error")
    assert error is not None
    assert "broken.test.json:1" in (error.text or "")


def test_the_json_document(tmp_path: Path):
    document = json.loads(json.dumps(report_of(tmp_path).to_json()))
    assert {k: document[k] for k in ("status", "passed", "failed", "skipped")} == {
        "status": "invalid",
        "passed": 1,
        "failed": 1,
        "skipped": 1,
    }
    good, bad, later = document["files"][0]["cases"]
    assert (good["status"], good["mocked"]) == ("passed", [])
    assert {"said", "path", "operator", "expected", "found", "line", "message"} <= bad["failures"][0].keys()
    assert later["reason"] == NASTY
    assert document["files"][1]["problems"][0]["line"] == 1


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/**/*.test.json")), ids=lambda f: f.name)
def test_the_schema_admits_the_examples(file: Path):
    schema = json.loads(SCHEMA_FILE.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator: Any = jsonschema.Draft202012Validator(schema)
    validator.validate(json.loads(file.read_bytes()))


@pytest.mark.parametrize(
    "case", [{}, {"name": "a", "expct_error": True}, {"name": "a", "assertions": [{"operator": "equal"}]}]
)
def test_the_schema_refuses_what_the_models_refuse(case: dict[str, Any]):
    schema = json.loads(SCHEMA_FILE.read_bytes())
    validator: Any = jsonschema.Draft202012Validator(schema)
    assert not validator.is_valid({"cases": [case]})
    with pytest.raises(ValueError, match="validation error"):
        Case.model_validate(case)


def test_the_example_of_the_guide_passes(tmp_path: Path):
    pipeline = (ROOT / "docs/guide/format.md").read_text(encoding="utf-8").partition("```json\n")[2].partition("```")[0]
    tests = GUIDE.partition("```json\n")[2].partition("```")[0]
    (tmp_path / "greet.pipeline.json").write_text(pipeline)
    file = tmp_path / "greet.test.json"
    file.write_text(tests)
    assert len(read_cases(file).content.cases) == 3
    report = run(file)
    assert report.invalid == []
    assert [u.message for case in report.cases() for u in case.unmet] == []
    assert report.count("passed") == 3


def test_the_guide_knows_every_operator_and_its_links_lead_somewhere():
    table = GUIDE.partition("| operator |")[2].partition("\n## ")[0]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert named == set(OPERATORS)
    headings = {line.lstrip("# ").lower() for line in GUIDE.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", GUIDE)) <= headings
