"""JUnit XML, the form in which CI servers read test results: a suite per file, a test case per case."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from flowmason_ray.pipeline_tests.results import CaseResult, FileResult, TestReport, Unmet

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not (section 2.2, Char)."""


def junit(report: TestReport) -> bytes:
    """Return a report as JUnit XML."""
    root = ElementTree.Element(
        "testsuites", _counts(list(report.cases()), report.duration_s, errors=len(report.invalid))
    )
    for file in report.files:
        _suite(root, file)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _suite(root: ElementTree.Element, file: FileResult) -> None:
    seconds = sum(case.duration_s for case in file.cases)
    counts = _counts(file.cases, seconds, errors=1 if file.problems else 0)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(file.file), **counts})
    if file.problems:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _clean(file.file), "name": "(the file)", "time": "0"}
        )
        text = "\n".join(str(problem) for problem in file.problems)
        _told(case, "error", type_="invalid", message=file.problems[0].message, text=text)
    for each in file.cases:
        _case(suite, file, each)


def _case(suite: ElementTree.Element, file: FileResult, result: CaseResult) -> None:
    facts = {"classname": _clean(file.file), "name": _clean(result.name), "time": f"{result.duration_s:.3f}"}
    facts |= {"file": _clean(file.file), "line": str(result.line or 1)}
    case = ElementTree.SubElement(suite, "testcase", facts)
    if result.verdict == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": _clean(result.reason or "")})
    for unmet in result.unmet:
        _told(case, "failure", type_=unmet.operator or "run", message=unmet.message, text=_text(file, unmet))
    if result.warnings or result.mocked:
        told = [*result.warnings, *(f"mocked: {path}" for path in result.mocked)]
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(told))


def _text(file: FileResult, unmet: Unmet) -> str:
    where = f"{file.file}:{unmet.line}" if unmet.line else file.file
    return "\n".join([*([unmet.said] if unmet.said else []), unmet.message, *unmet.details, where])


def _told(case: ElementTree.Element, tag: str, *, type_: str, message: str, text: str) -> None:
    element = ElementTree.SubElement(case, tag, {"type": type_, "message": _clean(message)})
    element.text = _clean(text)


def _counts(cases: list[CaseResult], seconds: float, *, errors: int) -> dict[str, str]:
    return {
        "tests": str(len(cases) + errors),
        "failures": str(sum(case.verdict == "failed" for case in cases)),
        "errors": str(errors),
        "skipped": str(sum(case.verdict == "skipped" for case in cases)),
        "time": f"{seconds:.3f}",
    }


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
