"""`fm init`, `validate`, `plan`, `fmt` and `components`, as somebody sees them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli_kit import Fm, pipeline, run_process, set_stage, stage

# -- init --------------------------------------------------------------------------------------------------------------


def test_what_init_makes_is_valid_canonical_and_runs(fm: Fm, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fm("init", "shop")
    assert made.code == 0
    assert "fm run pipelines/reviews.pipeline.json --sample" in made.err
    monkeypatch.chdir(fm.directory / "shop")
    assert json.loads(Path("flowmason.json").read_text())["name"] == "shop"
    assert Path(".gitignore").read_text().startswith(".flowmason/")
    assert fm("validate", ".").err == "No problems in 1 pipeline.\n"
    assert fm("fmt", ".", "--check").code == 0
    done = fm("run", "pipelines/reviews.pipeline.json", "--sample")
    assert done.json == {"advice": "People like the lamp: say thank you.", "score": 1, "bad_reviews": 1}
    bad = fm("run", "pipelines/reviews.pipeline.json", "-i", '{"reviews": ["awful"]}')
    assert bad.json["advice"] == "People do not like the product: find out why."


def test_every_command_of_the_readme_works(fm: Fm, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    fm("init", "shop")
    monkeypatch.chdir(fm.directory / "shop")
    lines = [line.strip() for line in Path("README.md").read_text().splitlines() if line.startswith("    fm ")]
    commands = [shlex.split(line.partition("   ")[0])[1:] for line in lines]
    assert len(commands) >= 8
    assert {" ".join(each): fm(*each).code for each in commands} == {" ".join(each): 0 for each in commands}


def test_init_overwrites_nothing_and_then_writes_nothing(fm: Fm) -> None:
    (fm.directory / "shop").mkdir()
    (fm.directory / "shop" / "README.md").write_text("mine")
    done = fm("init", "shop")
    assert done.code == 2
    assert "README.md" in done.err
    assert [p.name for p in (fm.directory / "shop").iterdir()] == ["README.md"]


def test_init_into_a_file_is_an_error(fm: Fm) -> None:
    (fm.directory / "shop").write_text("")
    assert fm("init", "shop").code == 2


# -- validate ----------------------------------------------------------------------------------------------------------


def test_every_problem_of_every_file_is_shown_with_its_place(fm: Fm) -> None:
    fm.write(pipeline(stage("a", "napp"), stage("b", after=["aa"])), "one/bad.pipeline.json")
    fm.write("{", "two/broken.pipeline.json")
    fm.write(pipeline(set_stage("x", 1)), "two/good.pipeline.json")
    fm.write("{", ".hidden/passed_over.pipeline.json")
    fm.write("{", "two/.venv/passed_over.pipeline.json")
    done = fm("validate", ".")
    assert done.code == 2
    assert done.out == ""
    assert "Did you mean 'nap'?" in done.err
    assert "Did you mean 'a'?" in done.err
    assert "--> one/bad.pipeline.json:6:" in done.err
    assert '"component_type": "napp"' in done.err, "the line itself"
    assert "^^^^^^" in done.err
    assert "--> two/broken.pipeline.json:1:2" in done.err
    assert "passed_over" not in done.err
    assert done.err.endswith("3 errors; 2 of 3 pipelines cannot be run.\n")


def test_validate_json_lists_every_file(fm: Fm) -> None:
    bad = fm.write(pipeline(stage("a", "napp")), "bad.pipeline.json")
    good = fm.write(pipeline(set_stage("x", 1)), "good.pipeline.json")
    done = fm("validate", bad, good, "--json")
    assert done.code == 2
    files = {each["file"]: each for each in done.json["files"]}
    assert (files[good]["ok"], files[good]["problems"]) == (True, [])
    assert files[bad]["ok"] is False
    problem = files[bad]["problems"][0]
    assert (problem["code"], problem["nearest"], problem["line"]) == ("unknown_component", "nap", 6)


def test_warnings_alone_are_no_failure(fm: Fm) -> None:
    never = stage("c", "conditional", config={"condition": False, "true_branch_stages": ["a"]})
    done = fm("validate", fm.write(pipeline(never, stage("a"))))
    assert done.code == 0
    assert "warning[constant_condition]" in done.err
    assert "1 warning; 1 pipeline can be run." in done.err


def test_a_directory_without_pipelines_is_an_error(fm: Fm) -> None:
    done = fm("validate", "components")
    assert done.code == 2
    assert "There is no '*.pipeline.json' below the directory 'components'" in done.err


def test_a_component_that_cannot_be_imported_is_a_problem_not_a_traceback(fm: Fm) -> None:
    (fm.directory / "components" / "bad.py").write_text("import nothing_of_this_name\n")
    done = fm("validate", fm.write(pipeline(stage("a"))))
    assert done.code == 2
    assert "nothing_of_this_name" in done.err
    assert "Traceback" not in done.err


def test_very_many_problems_are_cut(fm: Fm) -> None:
    done = fm("validate", fm.write(pipeline(*(stage(f"s{n}", "napp") for n in range(200)))))
    assert done.code == 2
    assert "and 170 more" in done.err
    assert done.err.count("error[") == 30


# -- plan --------------------------------------------------------------------------------------------------------------

NESTED = pipeline(
    set_stage("start", [1, 2]),
    stage("each", "foreach", config={"items": "{{ stages.start.v_start }}", "loop_stages": ["test"]}),
    stage(
        "test",
        "conditional",
        config={"condition": "{{ item > 1 }}", "true_branch_stages": ["big"], "false_branch_stages": ["small"]},
    ),
    stage("big", retry={"max_attempts": 3}, timeout_ms=1500, on_error="continue"),
    set_stage("small", '<&"small">'),
    set_stage("end", 1, ["each"]),
    output_stage_id="end",
)


def test_the_plan_in_text_shows_order_bodies_and_options(fm: Fm) -> None:
    done = fm("plan", fm.write(NESTED))
    lines = [line.strip() for line in done.out.splitlines()]
    order = ["start", "each", "for each item:", "test", "branch true:", "big", "branch false:", "small", "end"]
    starts = [next(n for n, line in enumerate(lines) if line.split("  ")[0] == word) for word in order]
    assert starts == sorted(starts)
    big = next(line for line in lines if line.startswith("big"))
    assert all(word in big for word in ("pure, cpu", "at once", "up to 3 attempts", "1.5 s each", "on error: continue"))
    assert "after start" in next(line for line in lines if line.startswith("each"))
    assert lines[-1] == "result: the output of end"


def test_the_plan_in_json_is_complete(fm: Fm) -> None:
    document = fm("plan", fm.write(NESTED), "--format", "json").json
    stages = {each["id"]: each for each in document["stages"]}
    assert (document["plan_version"], document["name"], document["result_stage"]) == (1, "P", "end")
    assert [each["id"] for each in document["stages"]] == ["start", "each", "test", "big", "small", "end"]
    assert stages["each"]["waits_for"] == stages["each"]["reads"] == ["start"]
    assert stages["test"]["owner"] == "each"
    assert stages["test"]["body"] == {"kind": "loop", "name": "", "variables": ["item", "index"]}
    assert stages["big"]["path"] == "each/big"
    assert stages["big"]["body"]["name"] == "true"
    assert (stages["big"]["retry"]["max_attempts"], stages["big"]["timeout_s"]) == (3, 1.5)
    assert all(each["line"] and each["column"] for each in stages.values())


def test_the_plan_in_mermaid_has_subgraphs_for_bodies(fm: Fm) -> None:
    out = fm("plan", fm.write(NESTED), "--format", "mermaid").out
    assert out.startswith("flowchart TD\n")
    assert out.count("subgraph") == out.count("    end") + out.count("\n  end") == 3
    assert "s0 --> s1" in out


def test_the_plan_as_svg_is_well_formed_and_has_every_stage(fm: Fm) -> None:
    done = fm("plan", fm.write(NESTED), "-o", "plan.svg")
    assert (done.code, done.out) == (0, "")
    root = ElementTree.parse(fm.directory / "plan.svg").getroot()
    paths = {each.get("data-path") for each in root.iter() if each.get("data-path")}
    assert paths == {"start", "each", "each/test", "each/big", "each/small", "end"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "svgg"], ["Did you mean 'svg'?"]),
        (["-o", "no/such/folder/plan.svg"], ["Cannot write"]),
    ],
)
def test_a_plan_that_cannot_be_shown_is_an_error(fm: Fm, arguments: list[str], words: list[str]) -> None:
    done = fm("plan", fm.write(NESTED), *arguments)
    assert done.code == 2
    assert [word for word in words if word not in done.err] == []


def test_the_plan_of_an_invalid_pipeline_shows_its_problems(fm: Fm) -> None:
    done = fm("plan", fm.write(pipeline(stage("a", after=["b"]), stage("b", after=["a"]))))
    assert done.code == 2
    assert "error[cycle]" in done.err


# -- fmt ---------------------------------------------------------------------------------------------------------------

OLD = '{"stages": [{"type": "nap", "id": "a", "inputs": {"seconds": 1.50}}], "name": "P", "x-mine": [1e3]}'


def test_fmt_rewrites_in_place_and_is_then_content(fm: Fm) -> None:
    file = fm.directory / fm.write(OLD)
    file.chmod(0o640)
    done = fm("fmt", ".")
    assert (done.code, done.out) == (0, "p.pipeline.json\n")
    text = file.read_text()
    assert all(part in text for part in ('"component_type": "nap"', "1.50", "1e3", '"x-mine"'))
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert fm("fmt", ".").out == ""
    assert sorted(p.name for p in fm.directory.iterdir()) == ["components", "flowmason.json", "p.pipeline.json"]


def test_fmt_check_changes_nothing(fm: Fm) -> None:
    file = fm.directory / fm.write(OLD)
    done = fm("fmt", "--check", str(file))
    assert (done.code, done.out) == (1, f"{file}\n")
    assert file.read_text() == OLD


def test_fmt_leaves_what_is_not_json_alone_and_goes_on(fm: Fm) -> None:
    broken = fm.directory / fm.write('{"name": "P",}', "a.pipeline.json")
    fm.write(OLD, "b.pipeline.json")
    done = fm("fmt", ".")
    assert (done.code, done.out) == (2, "b.pipeline.json\n")
    assert "error[invalid_json]" in done.err
    assert broken.read_text() == '{"name": "P",}'


def test_fmt_follows_a_symbolic_link_and_keeps_it(fm: Fm) -> None:
    fm.write(OLD, "real.pipeline.json")
    link = fm.directory / "link.pipeline.json"
    link.symlink_to("real.pipeline.json")
    assert fm("fmt", "link.pipeline.json").code == 0
    assert link.is_symlink()
    assert '"component_type"' in (fm.directory / "real.pipeline.json").read_text()


# -- components --------------------------------------------------------------------------------------------------------


def test_components_are_listed_by_category(fm: Fm) -> None:
    lines = fm("components", "list").out.splitlines()
    categories = [line.split()[0] for line in lines[1:]]
    assert categories == sorted(categories)
    delivery = fm("components", "list", "--category", "delivery").out.splitlines()[1:]
    assert [line.split()[1] for line in delivery] == ["email", "error_router", "output_router", "queue", "webhook"]
    named = fm("components", "list", "--category", "rows", "--json").json["components"]
    assert "pivot" in {each["name"] for each in named}
    wrong = fm("components", "list", "--category", "delivry")
    assert (wrong.code, "Did you mean 'delivery'" in wrong.err) == (2, True)


def test_a_component_shows_its_own_example(fm: Fm) -> None:
    out = fm("components", "show", "queue").out
    assert '"message_type": "order.paid"' in out


def test_components_are_listed_with_the_projects_own(fm: Fm) -> None:
    done = fm("components", "list")
    names = [line.split()[1] for line in done.out.splitlines()]
    assert {"NAME", "nap", "foreach", "conditional"} <= set(names)
    found = {each["name"]: each for each in fm("components", "list", "--json").json["components"]}
    assert (found["nap"]["effect"], found["nap"]["cost"]) == ("pure", "cpu")


def test_a_component_is_shown_with_fields_and_an_example(fm: Fm) -> None:
    out = fm("components", "show", "nap").out
    assert "Sleeps, prints, fails." in out
    assert "seconds" in out
    assert '"component_type": "nap"' in out


def test_every_component_can_be_shown_and_has_schemas(fm: Fm) -> None:
    names = [each["name"] for each in fm("components", "list", "--json").json["components"] if "error" not in each]
    assert len(names) > 10
    for name in names:
        assert fm("components", "show", name).code == 0
        document = fm("components", "show", name, "--json").json
        assert document["input_schema"]["type"] == document["output_schema"]["type"] == "object"


def test_an_unknown_component_names_the_nearest(fm: Fm) -> None:
    done = fm("components", "show", "for-eech")
    assert done.code == 2
    assert "Did you mean 'foreach'?" in done.err


# -- the call itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["run"], ["nope"], ["run", "p.pipeline.json", "--nope"], ["runs", "nope"]])
def test_a_wrong_call_exits_with_2(fm: Fm, arguments: list[str]) -> None:
    assert fm(*arguments).code == 2


def test_the_version_is_told(fm: Fm) -> None:
    from flowmason_ray import __version__

    assert fm("--version").out == f"fm {__version__}\n"


def test_help_imports_nothing_that_is_slow() -> None:
    import subprocess
    import sys

    from tests.cli_kit import ROOT, environment

    code = (
        "import sys\ntry:\n    from flowmason_ray.cli import main; main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert loaded & {"rich", "pydantic", "asyncio", "jinja2", "polars", "ray", "orjson", "sqlite3"} == set()


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done: Any = run_process("--version", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
