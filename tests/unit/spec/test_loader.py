"""Reading pipeline files: what is accepted, and how each thing that is wrong is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.loader import load_pipeline_data, load_pipeline_file, load_pipeline_text
from flowmason_ray.spec.reading import MAX_BYTES

A_STAGE: dict[str, Any] = {"id": "a", "component_type": "logger"}


def problems(content: str | bytes | dict[str, Any]) -> list[Problem]:
    text = json.dumps(content) if isinstance(content, dict) else content
    with pytest.raises(InvalidPipeline) as caught:
        load_pipeline_text(text, file="p.pipeline.json")
    return list(caught.value.problems)


def the_problem(content: str | bytes | dict[str, Any]) -> Problem:
    found = problems(content)
    assert len(found) == 1, found
    return found[0]


def of_stage(**fields: Any) -> dict[str, Any]:
    return {"name": "p", "stages": [{**A_STAGE, **fields}]}


def test_reads_a_file(tmp_path: Path):
    file = tmp_path / "p.pipeline.json"
    file.write_text(
        '{\n  "name": "Ünïcode",\n  "stages": [{"id": "a", "component_type": "logger"}]\n}\n', encoding="utf-8"
    )
    loaded = load_pipeline_file(file)
    assert loaded.pipeline.name == "Ünïcode"
    assert loaded.pipeline.by_id["a"].component_type == "logger"
    assert loaded.warnings == ()
    assert loaded.problem("some_code", "Some message.", "/stages/0/id", hint="Do.") == Problem(
        code="some_code",
        message="Some message.",
        path="/stages/0/id",
        file=str(file),
        line=3,
        column=21,
        hint="Do.",
    )
    assert loaded.problem("some_code", "…", "/stages/0/id", key=True).column == 15


class TestFilesThatCannotBeRead:
    def refused(self, path: Path) -> Problem:
        with pytest.raises(InvalidPipeline) as caught:
            load_pipeline_file(path)
        (problem,) = caught.value.problems
        return problem

    def test_missing_names_the_nearest(self, tmp_path: Path):
        (tmp_path / "orders.pipeline.json").write_text("{}")
        problem = self.refused(tmp_path / "order.pipeline.json")
        assert problem.code == "file_not_found"
        assert problem.nearest == str(tmp_path / "orders.pipeline.json")

    def test_missing_directory(self, tmp_path: Path):
        problem = self.refused(tmp_path / "nowhere" / "p.json")
        assert problem.code == "file_not_found"
        assert "There is no directory" in problem.message

    def test_directory(self, tmp_path: Path):
        assert self.refused(tmp_path).code == "is_a_directory"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_unreadable(self, tmp_path: Path):
        file = tmp_path / "p.json"
        file.write_text("{}")
        file.chmod(0)
        assert self.refused(file).code == "unreadable_file"

    def test_path_with_a_null_character(self):
        assert self.refused(Path("a\0b")).code == "unreadable_file"

    def test_file_as_directory(self, tmp_path: Path):
        file = tmp_path / "p.json"
        file.write_text("{}")
        assert self.refused(file / "q.json").code == "unreadable_file"

    def test_too_large_is_refused_before_parsing(self, tmp_path: Path):
        file = tmp_path / "p.json"
        with file.open("wb") as stream:
            stream.truncate(MAX_BYTES + 1)
        assert self.refused(file).code == "file_too_large"


class TestText:
    def test_byte_order_mark(self):
        problem = the_problem(b"\xef\xbb\xbf{}")
        assert problem.code == "byte_order_mark"
        assert "without BOM" in (problem.hint or "")

    def test_utf16(self):
        problem = the_problem("{}".encode("utf-16"))
        assert problem.code == "not_utf8"
        assert "UTF-16" in problem.message

    def test_not_utf8_says_where(self):
        problem = the_problem('{\n "name": "é'.encode("latin-1"))
        assert (problem.code, problem.line, problem.column) == ("not_utf8", 2, 11)

    @pytest.mark.parametrize(
        ("text", "line", "column", "said"),
        [
            ("", 1, 1, "empty"),
            (" \n ", 1, 1, "empty"),
            ('{"a": 1,\n}', 1, 8, "A comma stands before the closing bracket."),
            ('{"a": [1, 2,]}', 1, 12, "A comma stands before the closing bracket."),
            ('{"a" 1}', 1, 6, "Expected ':'; found '1'."),
            ('{"a": 1\n "b": 2}', 2, 2, "Expected ',' or a closing bracket; found '\"'."),
            ("{'a': 1}", 1, 2, "double quotes"),
            ("{a: 1}", 1, 2, "Expected a key in double quotes; found 'a'."),
            ('{"a": "x\ny"}', 1, 9, "control character"),
            ('{"a": "\\q"}', 1, 8, "Invalid escape"),
            ('{"a": "abc', 1, 7, "never ends"),
            ('{"a": [1', 1, 9, "the file ends here"),
            ('{"a": True}', 1, 7, "'True' is not JSON."),
            ('{"a": }', 1, 7, "Expected a value; found '}'."),
            ("// no\n{}", 1, 1, "no comments"),
            ('{} {"a": 1}', 1, 4, "ends before this"),
        ],
    )
    def test_syntax_errors_have_place_and_caret(self, text: str, line: int, column: int, said: str):
        problem = the_problem(text)
        assert problem.code == "invalid_json"
        assert (problem.line, problem.column) == (line, column)
        assert said in problem.message
        if text.strip():
            source, caret = (problem.excerpt or "").split("\n")
            assert source.strip() == text.split("\n")[line - 1].strip()
            assert caret == " " * (3 + column) + "^"
            assert str(problem).endswith(f"[invalid_json]\n{problem.excerpt}")

    def test_excerpt_of_a_very_long_line_is_short(self):
        problem = the_problem('{"a": [' + "1, " * 100_000 + "x" + ", 1" * 100_000)
        source, caret = (problem.excerpt or "").split("\n")
        assert len(source) < 120
        assert source[len(caret) - 1] == "x"

    @pytest.mark.parametrize("text", ["[1]", "null", '"a"', "3", "true"])
    def test_not_an_object(self, text: str):
        assert the_problem(text).code == "not_an_object"

    @pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
    def test_not_a_number(self, word: str):
        problem = the_problem('{"name": "p",\n "metadata": {"a": ' + word + "}}")
        assert (problem.code, problem.path, problem.line) == ("not_a_number", "/metadata/a", 2)

    @pytest.mark.parametrize("number", ["1e999", "9" * 5000, str(2**64), str(-(2**63) - 1)])
    def test_numbers_that_nobody_can_hold(self, number: str):
        problem = the_problem(f'{{"name": "p", "metadata": {{"a": {number}}}}}')
        assert (problem.code, problem.path) == ("number_out_of_range", "/metadata/a")

    def test_largest_numbers_are_kept(self):
        loaded = load_pipeline_text(f'{{"name": "p", "metadata": {{"a": [{2**64 - 1}, {-(2**63)}, 1.5e308]}}}}')
        assert loaded.pipeline.metadata["a"] == [2**64 - 1, -(2**63), 1.5e308]

    def test_half_of_a_surrogate_pair(self):
        assert the_problem('{"name": "p\\ud800"}').code == "invalid_text"
        assert the_problem('{"name": "p", "metadata": {"\\udc00": 1}}').code == "invalid_text"

    @pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 300 + "1" + "}" * 300, '{"a":' * 100_000])
    def test_deep_nesting(self, text: str):
        problem = the_problem(text)
        assert problem.code == "nested_too_deeply"
        assert problem.line == 1

    def test_duplicate_keys_name_both_places(self):
        found = problems('{"name": "p",\n "tags": [],\n "tags": [],\n "metadata": {"a": 1, "a": 2, "a": 3}}')
        assert [(p.code, p.path, p.line, p.column) for p in found] == [
            ("duplicate_key", "/tags", 3, 2),
            ("duplicate_key", "/metadata/a", 4, 31),
        ]
        assert "twice" in found[0].message
        assert "line 2, column 2" in found[0].message
        assert "3 times" in found[1].message


class TestKeys:
    def test_unknown_key_with_place_and_nearest(self):
        text = '{"name": "p", "stages": [\n  {"id": "a", "component_type": "logger",\n   "dependson": []}]}'
        problem = the_problem(text)
        assert problem == Problem(
            code="unknown_key",
            message="Unknown key 'dependson' in stage 'a'.",
            path="/stages/0/dependson",
            file="p.pipeline.json",
            line=3,
            column=4,
            found="dependson",
            nearest="depends_on",
        )
        assert "Did you mean 'depends_on'?" in str(problem)

    @pytest.mark.parametrize(
        ("fields", "path", "nearest"),
        [
            ({"retry": {"max_atempts": 2}}, "/stages/0/retry/max_atempts", "max_attempts"),
            ({"cache": {"ttl": 2}}, "/stages/0/cache/ttl", "ttl_s"),
            ({"llm_settings": {"modell": "m"}}, "/stages/0/llm_settings/modell", "model"),
            ({"resources": {"num_cpu": 1}}, "/stages/0/resources/num_cpu", "num_cpus"),
            ({"placement": {"nearr": "b"}}, "/stages/0/placement/nearr", "near"),
            ({"federation": {"region": []}}, "/stages/0/federation/region", "regions"),
        ],
    )
    def test_unknown_keys_inside_parts(self, fields: dict[str, Any], path: str, nearest: str):
        problem = the_problem(of_stage(**fields))
        assert (problem.code, problem.path, problem.nearest) == ("unknown_key", path, nearest)

    def test_unknown_key_of_the_pipeline_and_its_defaults(self):
        found = problems({"name": "p", "stage": [], "defaults": {"timeout": 5}, "extensions": {}})
        assert [(p.path, p.nearest) for p in found] == [
            ("/stage", "stages"),
            ("/defaults/timeout", "timeout_ms"),
            ("/extensions", "extends"),
        ]

    def test_a_component_setting_beside_config_is_explained(self):
        assert "under 'config'" in (the_problem(of_stage(prompt="x")).hint or "")

    def test_metadata_and_x_keys_are_free(self):
        stage = {**A_STAGE, "metadata": {"any": {"thing": 1}}, "x-owner": "me", "retry": {"x-why": "flaky"}}
        loaded = load_pipeline_data({"name": "p", "x-team": ["t"], "metadata": {"dependson": 1}, "stages": [stage]})
        assert loaded.pipeline.extensions == {"x-team": ["t"]}
        assert loaded.pipeline.stages[0].extensions == {"x-owner": "me"}
        assert loaded.pipeline.stages[0].retry is not None
        assert loaded.pipeline.stages[0].retry.extensions == {"x-why": "flaky"}


class TestValues:
    def test_missing_fields_name_the_stage(self):
        found = problems({"stages": [{"id": "a"}, {"component_type": "logger"}]})
        assert [(p.code, p.path, p.message) for p in found] == [
            ("missing_field", "/name", "The pipeline has no 'name'."),
            ("missing_field", "/stages/0/component_type", "Stage 'a' has no 'component_type'."),
            ("missing_field", "/stages/1/id", "Stage number 2 has no 'id'."),
        ]

    @pytest.mark.parametrize(
        ("fields", "code", "expected", "found"),
        [
            ({"timeout_ms": "abc"}, "wrong_type", "a whole number", "'abc'"),
            ({"timeout_ms": True}, "wrong_type", "a whole number", "true"),
            ({"timeout_ms": 1.5}, "wrong_type", "a whole number", "1.5"),
            ({"timeout_ms": -1}, "out_of_range", "at least 1", "-1"),
            ({"timeout_ms": 0}, "out_of_range", "at least 1", "0"),
            ({"timeout_ms": 10**18}, "out_of_range", "at most 315360000000", "1000000000000000000"),
            ({"depends_on": "b"}, "wrong_type", "a list", "'b'"),
            ({"depends_on": [3]}, "wrong_type", "text", "3"),
            ({"config": []}, "wrong_type", "an object", "[]"),
            ({"enabled": "yes"}, "wrong_type", "true or false", "'yes'"),
            ({"when": 3}, "wrong_type", "text or true or false", "3"),
            ({"cache": "yes"}, "wrong_type", "true or false or an object", "'yes'"),
            ({"cache": {"ttl_s": 0}}, "out_of_range", "more than 0", "0"),
            ({"retry": 3}, "wrong_type", 'an object such as {"max_attempts": 3}', "3"),
            ({"retry": {"max_attempts": 0}}, "out_of_range", "at least 1", "0"),
            ({"retry": {"jitter": 2}}, "out_of_range", "at most 1", "2"),
            ({"retry": {"initial_delay_ms": -5}}, "out_of_range", "at least 0", "-5"),
            ({"on_error": "ignore"}, "invalid_choice", "'fail', 'continue' or 'fallback'", "'ignore'"),
            ({"effect": "none"}, "invalid_choice", "'pure', 'idempotent' or 'effectful'", "'none'"),
            ({"id": "a b"}, "invalid_id", "letters, digits, '_' and '-'", "'a b'"),
            ({"id": ""}, "invalid_id", "letters, digits, '_' and '-'", "''"),
            (
                {"component_type": "a b"},
                "invalid_component_type",
                "'name', 'name@range' or 'owner/package:name'",
                "'a b'",
            ),
        ],
    )
    def test_one_wrong_value(self, fields: dict[str, Any], code: str, expected: str, found: str):
        problem = the_problem(of_stage(**fields))
        assert (problem.code, problem.expected, problem.found) == (code, expected, found)
        assert problem.path.startswith("/stages/0/")
        assert problem.line == 1

    def test_wording_of_a_nested_value(self):
        problem = the_problem(of_stage(retry={"max_attempts": "3"}))
        assert problem.message == "'max_attempts' of 'retry' of stage 'a' must be a whole number; found '3'."

    def test_misspelled_choice_has_nearest(self):
        assert the_problem(of_stage(on_error="fallbak", fallback_output=1)).nearest == "fallback"

    @pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-", ""])
    def test_version_is_semver(self, version: str):
        assert the_problem({"name": "p", "version": version}).code == "invalid_version"

    @pytest.mark.parametrize("version", ["1.0.0", "0.0.1-alpha.1+build.5", "10.20.30-rc-1"])
    def test_good_versions(self, version: str):
        assert load_pipeline_data({"name": "p", "version": version}).pipeline.version == version

    def test_duplicate_ids_name_the_other_line(self):
        text = '{"name": "p", "stages": [\n{"id": "a", "component_type": "x"},\n{"id": "a", "component_type": "y"}]}'
        problem = the_problem(text)
        assert (problem.code, problem.path, problem.line) == ("duplicate_id", "/stages/1/id", 3)
        assert "line 2" in problem.message

    def test_compositions_share_the_ids_of_stages(self):
        data = {"name": "p", "stages": [A_STAGE], "compositions": [{"id": "a", "pipeline": "q"}]}
        assert the_problem(data).path == "/compositions/0/id"

    def test_fallback_needs_an_output(self):
        problem = the_problem(of_stage(on_error="fallback"))
        assert (problem.code, problem.path) == ("missing_fallback", "/stages/0/on_error")
        loaded = load_pipeline_data(of_stage(on_error="fallback", fallback_output=None))
        assert loaded.pipeline.stages[0].fallback_output is None

    @pytest.mark.parametrize("on_error", [{}, {"on_error": "continue"}])
    def test_fallback_output_without_fallback(self, on_error: dict[str, Any]):
        problem = the_problem(of_stage(fallback_output={"a": 1}, **on_error))
        assert (problem.code, problem.path) == ("unused_fallback", "/stages/0/fallback_output")

    def test_everything_is_reported_at_once_in_the_order_of_the_file(self):
        found = problems('{"verison": "1.0.0",\n"stages": [\n{"id": "a b"},\n3,\n{"id": "c", "component_type": 5}]}')
        assert [(p.line, p.code) for p in found] == [
            (1, "missing_field"),
            (1, "unknown_key"),
            (3, "missing_field"),
            (3, "invalid_id"),
            (4, "wrong_type"),
            (5, "wrong_type"),
        ]

    def test_thousands_of_problems(self):
        stages = [{"id": f"s{i}", "component_type": "x", "oops": 1} for i in range(2_000)]
        found = problems(json.dumps({"name": "p", "stages": stages}, indent=1))
        assert len(found) == 2_000
        assert [p.line for p in found] == [7 + 5 * i for i in range(2_000)]


class TestPythonData:
    def test_tuples_and_subclasses_become_plain(self):
        class Text(str):
            pass

        loaded = load_pipeline_data({"name": Text("p"), "tags": ("a", Text("b"))})
        assert loaded.data == {"name": "p", "tags": ["a", "b"]}
        assert type(loaded.data["name"]) is str

    def test_the_mapping_is_not_changed(self):
        data = {"name": "p", "stages": [{"id": "a", "type": "x-y", "inputs": {"b": "{{upstream.a.c}}"}}]}
        before = json.dumps(data)
        load_pipeline_data(data)
        assert json.dumps(data) == before

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"x", {1: 2}])
    def test_what_json_cannot_express(self, value: object):
        with pytest.raises(InvalidPipeline) as caught:
            load_pipeline_data({"name": "p", "metadata": {"a": value}})
        assert [(p.code, p.line) for p in caught.value.problems] == [("not_json", None)]

    def test_not_a_number(self):
        with pytest.raises(InvalidPipeline) as caught:
            load_pipeline_data({"name": "p", "metadata": {"a": float("nan"), "b": float("inf")}})
        assert [p.code for p in caught.value.problems] == ["not_a_number", "number_out_of_range"]

    def test_data_that_contains_itself(self):
        loop: dict[str, Any] = {}
        loop["a"] = loop["b"] = loop
        with pytest.raises(InvalidPipeline) as caught:
            load_pipeline_data({"name": "p", "metadata": loop})
        assert {p.code for p in caught.value.problems} == {"not_json"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)

keys = st.sampled_from(
    [
        "id",
        "type",
        "component",
        "component_type",
        "config",
        "inputs",
        "input_mapping",
        "retry",
        "retry_config",
        "on_error",
        "cache",
        "when",
        "depends_on",
        "fallback_output",
        "timeout_ms",
        "stages",
        "compositions",
        "overrides",
        "defaults",
        "extends",
        "metadata",
        "max_retries",
        "x-y",
        "name",
    ]
)
almost_pipelines = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**66)
    | st.sampled_from(["a", "conditional", "fallback", "{{upstream.a.b}}", "{{a.output.b}}", "{{", "\ud800", "1.0.0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=8),
    max_leaves=40,
)


def problems_if_refused(load: Callable[[Any], object], content: object) -> Sequence[Problem]:
    """Load, and let anything but the one right exception through."""
    try:
        load(content)
    except InvalidPipeline as exc:
        str(exc).encode()
        return exc.problems or [Problem(code="nothing_reported", message="")]
    return ()


@settings(max_examples=150, deadline=None)
@given(st.text() | st.binary() | json_values.map(json.dumps))
def test_any_text_is_read_or_refused_properly(content: str | bytes):
    assert all(p.line and p.column for p in problems_if_refused(load_pipeline_text, content))


@settings(max_examples=300, deadline=None)
@given(almost_pipelines)
def test_almost_pipelines_are_read_or_refused_properly(value: Any):
    document = cast("Any", {"name": "p", "stages": value} if isinstance(value, list) else value)
    found = problems_if_refused(load_pipeline_text, json.dumps(document))
    assert all(p.line and p.column for p in found)
    if isinstance(document, dict):
        of_data = problems_if_refused(load_pipeline_data, cast("dict[str, Any]", document))
        assert sorted((p.code, p.path) for p in of_data) == sorted((p.code, p.path) for p in found)
