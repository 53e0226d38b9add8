"""Tests of pipelines on Ray: mocked stages are answered here, the others run there, values go both ways."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.pipeline_tests.running import Selection, run_files

PIPELINE: dict[str, Any] = {
    "name": "mixed",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
    "stages": [
        {"id": "read", "component_type": "table_read", "config": {"path": "{{input.path}}"}},
        {
            "id": "big",
            "component_type": "table_sql",
            "config": {"tables": {"t": "{{stages.read.table}}"}, "query": "select * from t where id >= 10"},
        },
        {
            "id": "say",
            "component_type": "logger",
            "config": {"message": "{{stages.big.rows}} rows", "data": "{{stages.big.table}}"},
            "placement": {"fuse": "never"},
        },
        {
            "id": "count",
            "component_type": "table_aggregate",
            "config": {"table": "{{stages.say.passthrough}}", "aggregations": {"n": "count()"}},
        },
    ],
    "output": {"counted": "{{stages.count.table}}", "rows": "{{stages.big.rows}}"},
}
SAID = {"logged": True, "log_id": "x", "passthrough": [{"id": 1}, {"id": 2}]}


@pytest.mark.usefixtures("ray_cluster")
def test_mocked_stages_read_and_write_values_of_the_cluster(tmp_path: Path):
    (tmp_path / "data.csv").write_text("id\n" + "".join(f"{i}\n" for i in range(40_000)))
    (tmp_path / "p.pipeline.json").write_text(json.dumps(PIPELINE))
    cases: list[dict[str, Any]] = [
        {
            "name": "a consumer of a large table is mocked",
            "input": {"path": "data.csv"},
            "mocks": {"say": {"when": "config.message == '39990 rows'", "output": SAID}},
            "assertions": [
                {"path": "$.output.counted", "value": [{"n": 2}]},
                {"path": "$.stages.say.mocked", "value": True},
                {"path": "$.stages.read.output.table.rows", "value": 40_000},
            ],
        },
        {
            "name": "a producer is mocked",
            "input": {"path": "nothing.csv"},
            "mocks": {
                "read": {"output": {"table": [{"id": 1}, {"id": 11}], "rows": 2, "columns": ["id"], "files": []}}
            },
            "assertions": [
                {"path": "$.output", "value": {"counted": [{"n": 1}], "rows": 1}},
                {"path": "$.stages.big.mocked", "value": False},
            ],
        },
        {
            "name": "what no mock wants runs on the cluster",
            "input": {"path": "data.csv"},
            "mocks": {"say": {"when": "config.message == 'no'", "output": SAID}},
            "assertions": [{"path": "$.output.counted", "value": [{"n": 39_990}]}],
        },
        {
            "name": "a mocked failure",
            "input": {"path": "data.csv"},
            "mocks": {"say": {"error": {"code": "busy"}}},
            "expect_error": {"code": "busy", "stage": "say"},
        },
    ]
    file = tmp_path / "p.test.json"
    file.write_text(json.dumps({"cases": cases}))
    report = asyncio.run(run_files([file], Selection(on="ray")))
    assert [str(p) for p in report.files[0].problems] == []
    assert [u.to_json() for case in report.cases() for u in case.unmet] == []
    assert [(case.verdict, case.on) for case in report.cases()] == [("passed", "ray")] * 4
    assert report.files[0].cases[2].warnings == ["The mock of 'say' was never used."]
