"""`fm resolve`, `explain`, `info`, `lock` and `validate --check-inheritance`: a team with a base pipeline and its children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Fm, environment

BASE: dict[str, Any] = {
    "name": "base",
    "version": "1.2.0",
    "abstract": True,
    "input_schema": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
    "sample_input": {"n": 3},
    "stages": [
        {
            "id": "load",
            "component_type": "json_transform",
            "config": {"data": {}, "values": {"n": "{{input.n}}", "k": 1}},
        },
        {"id": "shape", "component_type": "abstract", "depends_on": ["load"]},
    ],
    "output": {"result": "{{stages.shape.result}}"},
}
CHILD: dict[str, Any] = {
    "name": "child",
    "extends": "base@^1",
    "overrides": {"load": {"config": {"values": {"k": 10}}}},
    "stages": [
        {
            "id": "shape",
            "component_type": "json_transform",
            "config": {"data": {}, "values": {"v": "{{stages.load.result.n * stages.load.result.k}}"}},
        }
    ],
}


@pytest.fixture
def team(fm: Fm) -> Fm:
    fm.write(BASE, "base.pipeline.json")
    fm.write(CHILD, "child.pipeline.json")
    return fm


def test_a_child_runs_and_its_parent_does_not(team: Fm) -> None:
    assert team("run", "child.pipeline.json", "--sample", "-q").json == {"result": {"v": 30}}
    done = team("run", "base.pipeline.json", "--sample")
    assert done.code == 2
    assert "error[abstract_pipeline]" in done.err


def test_a_whole_directory_with_bases_in_it_is_valid(team: Fm) -> None:
    done = team("validate", ".")
    assert (done.code, done.err.strip()) == (0, "No problems in 2 pipelines.")


def test_resolve_prints_a_pipeline_that_stands_alone(team: Fm) -> None:
    flat = team("resolve", "child.pipeline.json")
    assert "extends" not in flat.json
    assert "overrides" not in flat.json
    team.write(flat.out, "flat.pipeline.json")
    assert team("resolve", "flat.pipeline.json").out == flat.out
    assert team("fmt", "--check", "flat.pipeline.json").code == 0
    assert team("run", "flat.pipeline.json", "--sample", "-q").json == {"result": {"v": 30}}
    digests = {
        team("plan", name, "--format", "json").json["digest"] for name in ("child.pipeline.json", "flat.pipeline.json")
    }
    assert len(digests) == 1


def test_explain_tells_file_and_line_and_what_is_overridden(team: Fm) -> None:
    done = team("explain", "child.pipeline.json", "load.config.values.k")
    assert done.out.splitlines() == [
        "load.config.values.k = 10",
        "  child.pipeline.json:8  10",
        "  base.pipeline.json:27  1  (overridden)",
    ]
    written = team("explain", "child.pipeline.json", "/stages/0/config/values/k", "--json").json["values"][0]["written"]
    assert [(each["line"], each["path"], each["value"]) for each in written] == [
        (27, "/stages/0/config/values/k", 1),
        (8, "/overrides/load/config/values/k", 10),
    ]
    every = team("explain", "child.pipeline.json").out
    assert "child.pipeline.json:8 ← base.pipeline.json:27" in every
    assert "base.pipeline.json:26" in every
    done = team("explain", "child.pipeline.json", "load.confg")
    assert (done.code, "Did you mean 'config'?" in done.err) == (2, True)
    assert team("explain", "base.pipeline.json", "shape.depends_on").out.startswith('shape.depends_on.0 = "load"')


def test_info_shows_the_family_as_a_tree(team: Fm) -> None:
    team.write({"name": "mid", "extends": "base", "abstract": True, "tags": ["m"]}, "mid.pipeline.json")
    team.write({**CHILD, "name": "two", "extends": ["mid", "base@1"]}, "two.pipeline.json")
    out = team("info", "--inheritance", "two.pipeline.json").out.splitlines()
    assert out == [
        "two@1.0.0  (two.pipeline.json)",
        "├── mid@1.0.0  (mid.pipeline.json, abstract)",
        "│   └── base@1.2.0  (base.pipeline.json, abstract)",
        "└── base@1.2.0 as base@1  (base.pipeline.json, abstract)",
        "",
        "order  two@1.0.0 → mid@1.0.0 → base@1.2.0",
        "",
        "slots",
        "└── shape  declared at base.pipeline.json:31: json_transform, filled at two.pipeline.json:17",
        "",
        "changes  load",
    ]
    assert "shape  declared at base.pipeline.json:31: open" in team("info", "--inheritance", "mid.pipeline.json").out
    facts = team("info", "two.pipeline.json", "--inheritance", "--json").json
    assert facts["inheritance"]["slots"][0]["filled"] is True
    assert team("info", "child.pipeline.json").out.splitlines()[0] == "child 1.0.0: pipeline, 2 stages"


def test_an_error_points_to_the_file_that_is_wrong_and_names_the_chain(team: Fm) -> None:
    team.write({**CHILD, "overrides": {"load": {"config": {"values": {"$replace": 3}}}}}, "child.pipeline.json")
    done = team("validate", "child.pipeline.json")
    assert done.code == 2
    assert "--> child.pipeline.json:8:23" in done.err
    assert "= written in base.pipeline.json:25, overridden in child.pipeline.json:8" in done.err
    wrong = json.loads(json.dumps(BASE))
    wrong["stages"][0]["config"]["vals"] = 1
    team.write(wrong, "base.pipeline.json")
    team.write(CHILD, "child.pipeline.json")
    done = team("validate", "child.pipeline.json")
    assert "--> base.pipeline.json:29:9 at /stages/0/config/vals" in done.err
    assert "= written in base.pipeline.json:29, inherited by child.pipeline.json" in done.err


def test_a_failure_at_run_time_points_to_the_parent_too(team: Fm) -> None:
    parent = json.loads(json.dumps(BASE))
    parent["stages"][0]["config"]["values"]["n"] = "{{ 1 // (input.n - 3) }}"
    team.write(parent, "base.pipeline.json")
    done = team("run", "child.pipeline.json", "--sample")
    assert done.code == 1
    assert "--> base.pipeline.json:20:5" in done.err
    assert "inherited by child.pipeline.json" in done.err


def test_check_inheritance_looks_at_the_whole_family(team: Fm) -> None:
    redundant = {**CHILD, "overrides": {"load": {"config": {"values": {"k": 1}}}}}
    team.write({**redundant, "name": "same"}, "same.pipeline.json")
    team.write({**CHILD, "name": "gone", "overrides": {"lod": {}}}, "sub/gone.pipeline.json")
    done = team("validate", "--check-inheritance", "base.pipeline.json", "--json")
    assert done.code == 2
    found = {Path(each["file"]).name: [p["code"] for p in each["problems"]] for each in done.json["files"]}
    assert found == {
        "base.pipeline.json": [],
        "child.pipeline.json": [],
        "same.pipeline.json": ["redundant_override"],
        "gone.pipeline.json": ["unknown_override"],
    }
    assert team("validate", "--check-inheritance", "child.pipeline.json").code == 0


def test_parents_that_disagree_are_told_about(team: Fm) -> None:
    for name, k in (("left", 2), ("right", 3)):
        patch = {"load": {"config": {"values": {"k": k}}}}
        team.write({"name": name, "extends": "base", "abstract": True, "overrides": patch}, f"{name}.pipeline.json")
    team.write({"name": "both", "extends": ["left", "right"], "stages": CHILD["stages"]}, "both.pipeline.json")
    done = team("validate", "--check-inheritance", "both.pipeline.json")
    assert done.code == 0
    assert "warning[parents_disagree]: Two parents say different things about 'load.config.values.k'" in done.err
    assert team("run", "both.pipeline.json", "--sample", "-q").json == {"result": {"v": 6}}


def test_the_lock_is_made_checked_and_holds(team: Fm) -> None:
    assert team("lock", "--check").code == 1
    done = team("lock")
    assert (done.code, "+ base@^1: 1.2.0" in done.err) == (0, True)
    assert team("lock", "--check").code == 0
    team.write({**BASE, "version": "1.3.0"}, "newer.pipeline.json")
    assert team("info", "--inheritance", "child.pipeline.json").out.splitlines()[1].startswith("└── base@1.2.0")
    team.write({**BASE, "tags": ["new"]}, "base.pipeline.json")
    for arguments in (["validate", "child.pipeline.json"], ["run", "child.pipeline.json", "--sample"]):
        done = team(*arguments)
        assert done.code == 2
        assert "error[lock_mismatch]" in done.err
        assert "run 'fm lock'" in done.err
    assert "~ base@^1: 1.2.0, new content" in team("lock").err
    assert "~ base@^1: 1.2.0 → 1.3.0" in team("lock", "--upgrade").err
    assert team("run", "child.pipeline.json", "--sample", "-q").code == 0


def test_a_lock_is_not_written_while_a_reference_leads_nowhere(team: Fm) -> None:
    team.write({"name": "lost", "extends": "bse"}, "lost.pipeline.json")
    done = team("lock")
    assert (done.code, "pipeline_not_found" in done.err) == (2, True)
    assert not (team.directory / "flowmason.lock").exists()


def test_pipeline_tests_run_through_the_same_resolving(team: Fm) -> None:
    case = {
        "name": "three",
        "input": {"n": 3},
        "assertions": [{"path": "$.output.result.v", "operator": "equals", "value": 30}],
    }
    (team.directory / "child.test.json").write_text(json.dumps({"cases": [case]}), encoding="utf-8")
    done = team("test", "child.test.json")
    assert done.code == 0, done.out + done.err


def test_a_parent_comes_from_an_installed_distribution(tmp_path: Path) -> None:
    """A distribution is really built, and installed as wheels are: unpacked."""
    source = tmp_path / "source"
    package = source / "acme_pipelines"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('finding pipelines must not import anything')\n")
    (package / "base.pipeline.json").write_text(json.dumps(BASE), encoding="utf-8")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "acme-pipelines"\nversion = "4.0"\n'
        '[project.entry-points."flowmason.pipelines"]\nacme = "acme_pipelines"\n',
        encoding="utf-8",
    )
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True, timeout=50
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    project = tmp_path / "project"
    project.mkdir()
    (project / "child.pipeline.json").write_text(json.dumps(CHILD), encoding="utf-8")

    def fm(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([environment()["PYTHONPATH"], str(site)])
        return subprocess.run(
            [sys.executable, "-m", "flowmason_ray", *arguments],
            cwd=project,
            env=environment(PYTHONPATH=paths, NO_COLOR="1"),
            capture_output=True,
            text=True,
            timeout=50,
        )

    done = fm("run", "child.pipeline.json", "--sample", "-q", "--no-store")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"result": {"v": 30}}), done.stderr
    assert fm("lock").returncode == 0
    pin = json.loads((project / "flowmason.lock").read_text(encoding="utf-8"))["pipelines"]["base@^1"]
    assert (pin["version"], pin["found"]) == ("1.2.0", "acme-pipelines:base.pipeline.json")


def test_what_is_wrong_with_a_parent_names_who_inherits_it(team: Fm) -> None:
    team.write('{"name": x}', "broken.pipeline.json")
    team.write({"name": "heir", "extends": "./broken.pipeline.json"}, "heir.pipeline.json")
    done = team("run", "heir.pipeline.json")
    assert done.code == 2
    assert "--> broken.pipeline.json:1:10" in done.err
    assert "written in broken.pipeline.json:1, inherited by heir.pipeline.json" in done.err


def test_a_directory_is_no_parent(team: Fm) -> None:
    (team.directory / "lib").mkdir()
    team.write({"name": "heir", "extends": "./lib"}, "heir.pipeline.json")
    done = team("resolve", "heir.pipeline.json")
    assert done.code == 2
    assert "error[pipeline_not_found]: './lib' is a directory; expected a pipeline" in done.err
    team.write({"name": "heir", "extends": "./a\x1bb.json"}, "heir.pipeline.json")
    assert "\x1b" not in team("resolve", "heir.pipeline.json").err.replace("\x1b[", "")


@pytest.mark.parametrize("caller", ["composition", "stage"])
def test_an_abstract_pipeline_is_refused_where_it_is_called(team: Fm, caller: str) -> None:
    composed: Any = {"compositions": [{"id": "a", "pipeline": "base", "input_mapping": {"n": 1}}]}
    called: Any = {
        "stages": [{"id": "a", "component_type": "subpipeline", "config": {"pipeline": "base", "input_data": {"n": 1}}}]
    }
    team.write({"name": "caller", **(composed if caller == "composition" else called)}, "caller.pipeline.json")
    done = team("validate", "caller.pipeline.json", "--json")
    (problem,) = done.json["files"][0]["problems"]
    assert problem["code"] == "abstract_pipeline"
    assert problem["message"].startswith(f"{caller.capitalize()} 'a' runs base@1.2.0, which is abstract")
    assert problem["file"].endswith("caller.pipeline.json")
