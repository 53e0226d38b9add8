"""`fm run`, as somebody sees it: exit codes, what goes to which stream, and what bad input gets."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Fm, command, environment, pipeline, run_process, set_stage, stage

ADD = pipeline(
    set_stage("sum", "{{ input.a + input.b }}"),
    output={"sum": "{{ stages.sum.v_sum }}"},
    input_schema={
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 10}, "deep": {"type": "object"}},
        "additionalProperties": False,
    },
    sample_input={"a": 1},
)
NOTHING_WRONG = ("✗", "error", "Traceback")


def test_the_result_is_alone_on_stdout_and_the_rest_on_stderr(fm: Fm) -> None:
    done = fm("run", fm.write(ADD), "-i", '{"a": 1}')
    assert (done.code, done.out) == (0, '{"sum":11}\n')
    assert "✓ sum" in done.err
    assert "✓ succeeded" in done.err
    assert not any(word in done.err for word in NOTHING_WRONG)


@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        (["-i", '{"a": 1, "b": 2}'], 3),
        (["--sample"], 11),
        (["--sample", "--set", "a=5"], 15),
        (["--set", "a=5", "--set", "b=6"], 11),
        (["-f", "in.json"], 30),
        (["-f", "in.json", "--set", "b=1"], 11),
    ],
)
def test_the_input_comes_from_wherever_it_is_said(fm: Fm, arguments: list[str], total: int) -> None:
    (fm.directory / "in.json").write_text('{"a": 10, "b": 20}')
    assert fm("run", fm.write(ADD), *arguments).json == {"sum": total}


def test_the_input_may_come_from_stdin(fm: Fm) -> None:
    assert fm("run", fm.write(ADD), "-f", "-", stdin='{"a": 2}').json == {"sum": 12}


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["x=1"], {"x": 1}),
        (["x=Oslo"], {"x": "Oslo"}),
        (['x="1"'], {"x": "1"}),
        (["x="], {"x": ""}),
        (["x=a=b"], {"x": "a=b"}),
        (["x=NaN"], {"x": "NaN"}),
        (["a.b.c=[1,2]"], {"a": {"b": {"c": [1, 2]}}}),
        (["a=[1,2]", "a.1=9"], {"a": [1, 9]}),
        (['a=[{"k":1}]', "a.0.k=null"], {"a": [{"k": None}]}),
    ],
)
def test_set_takes_dotted_paths_and_json_or_text(fm: Fm, assignments: list[str], expected: Any) -> None:
    file = fm.write(pipeline(set_stage("x", "{{ input }}"), output={"got": "{{ stages.x.v_x }}"}))
    arguments = [word for each in assignments for word in ("--set", each)]
    assert fm("run", file, *arguments).json == {"got": expected}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-i", "{", "--json"], ["invalid_json"]),
        (["-i", "[1]"], ["The input is a JSON object; found a list"]),
        (["-i", '{"a": NaN}'], ["NaN"]),
        (["-i", '{"a": "x", "c": 1}'], ["at /a", "'c'"]),
        (["-f", "missing.json"], ["missing.json", "There is no file"]),
        (["-f", "."], ["is a directory; expected a file"]),
        (["-i", "{}", "-f", "in.json"], ["-i and -f each give the whole input"]),
        (["-i", "{}", "--sample"], ["-i and --sample each give"]),
        (["--set", "a"], ["--set takes 'key=value'", "'a'"]),
        (["--set", "=1"], ["--set takes"]),
        (["--set", "a..b=1"], ["--set takes"]),
        (["--set", "a=1", "--set", "a.b=1"], ["'a' is 1, which has no parts"]),
        (["--set", "xs=[1]", "--set", "xs.3=1"], ["'3' is no position in a list of 1"]),
        (["--sample", "--on", "moon"], ["Cannot run on 'moon'", "local, ray"]),
    ],
)
def test_a_call_that_cannot_work_says_why_and_exits_with_2(fm: Fm, arguments: list[str], words: list[str]) -> None:
    done = fm("run", fm.write(ADD), *arguments)
    told = done.out + done.err
    assert done.code == 2
    assert [word for word in words if word not in told] == []
    assert "Traceback" not in told
    assert not (fm.directory / ".flowmason").exists(), "nothing half-done"


def test_a_sample_that_is_not_there_is_an_error(fm: Fm) -> None:
    done = fm("run", fm.write(pipeline(set_stage("x", 1))), "--sample")
    assert done.code == 2
    assert "has no 'sample_input'" in done.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"name": "P", "stages": [', ["invalid_json", "p.pipeline.json:1:", "^"]),
        ("[]", ["not_an_object"]),
        ('{"name": "P", "stages": [], "stags": 1}', ["unknown_key", "Did you mean 'stages'?", "^^^^^^^"]),
        ("\ufeff{}", ["byte_order_mark"]),
    ],
)
def test_a_file_that_is_no_pipeline_is_shown_where(fm: Fm, content: str, words: list[str]) -> None:
    done = fm("run", fm.write(content))
    assert done.code == 2
    assert [word for word in words if word not in done.err] == []
    assert done.out == ""


@pytest.mark.parametrize(("path", "word"), [("nowhere.pipeline.json", "There is no file"), (".", "is a directory")])
def test_a_pipeline_that_cannot_be_read_is_an_error(fm: Fm, path: str, word: str) -> None:
    done = fm("run", path)
    assert done.code == 2
    assert word in done.err


# -- failures ----------------------------------------------------------------------------------------------------------

FAILING = pipeline(
    stage("first"),
    stage(
        "broken", after=["first"], config={"raises": "no such lamp"}, retry={"max_attempts": 2, "initial_delay_ms": 1}
    ),
)


def test_a_failed_run_says_which_stage_where_and_what_next(fm: Fm) -> None:
    file = fm.write(FAILING)
    done = fm("run", file)
    line = next(n for n, text in enumerate(Path(file).read_text().splitlines(), 1) if '"broken"' in text) - 1
    assert done.code == 1
    assert done.out == ""
    assert "Stage 'broken' failed after 2 attempts: ValueError: no such lamp" in done.err
    assert "error[component_error]" in done.err
    assert f"--> {file}:{line}:" in done.err
    assert "components/nap.py" in done.err, "the component's own frames"
    assert "flowmason_ray/engine" not in done.err, "none of ours"
    run_id = next(w for w in done.err.split() if w.startswith("r_"))
    assert f"fm runs story {run_id} broken" in done.err


def test_a_failure_in_another_pipeline_is_placed_in_that_one_and_tells_who_calls_it(fm: Fm) -> None:
    fm.write(pipeline(stage("inner", config={"raises": "x"}), name="Called"), "called.pipeline.json")
    file = fm.write(
        pipeline(set_stage("before", 1), stage("call", "subpipeline", config={"pipeline": "./called.pipeline.json"}))
    )
    done = fm("run", file)
    line = next(n for n, text in enumerate(Path(file).read_text().splitlines(), 1) if '"call"' in text) - 1
    assert done.code == 1
    inner = next(
        n for n, text in enumerate(Path("called.pipeline.json").read_text().splitlines(), 1) if '"inner"' in text
    )
    assert "Stage 'call/inner' failed" in done.err
    assert f"--> called.pipeline.json:{inner - 1}:" in done.err
    assert f"called at {file}:{line}" in done.err


def test_quiet_shows_nothing_but_the_result_and_errors(fm: Fm) -> None:
    assert fm("run", fm.write(ADD), "--sample", "-q").err == ""
    failed = fm("run", fm.write(FAILING), "-q")
    assert failed.code == 1
    assert "Stage 'broken' failed" in failed.err
    assert "✓ first" not in failed.err


def test_json_is_one_document_for_a_success(fm: Fm) -> None:
    document = fm("run", fm.write(ADD), "--sample", "--json").json
    assert document["run_id"].startswith("r_")
    assert document["status"] == "succeeded"
    assert document["output"] == {"sum": 11}
    assert document["usage"] == {}
    assert document["duration_ms"] > 0
    assert {key: document["stages"]["sum"][key] for key in ("status", "attempts")} == {
        "status": "succeeded",
        "attempts": 1,
    }


def test_json_is_one_document_for_a_failure(fm: Fm) -> None:
    done = fm("run", fm.write(FAILING), "--json")
    assert done.code == 1
    assert (done.json["status"], done.json["output"]) == ("failed", None)
    assert done.json["error"]["stage"] == "broken"
    assert done.json["stages"]["broken"]["attempts"] == 2
    assert done.json["stages"]["broken"]["error"]["code"] == "component_error"


@pytest.mark.parametrize("arguments", [["-i", '{"a": "x"}'], ["-i", "1"], ["--on", "moon"], ["--set", "x"]])
def test_json_is_one_document_for_what_is_invalid(fm: Fm, arguments: list[str]) -> None:
    done = fm("run", fm.write(ADD), "--json", *arguments)
    assert done.code == 2
    assert done.json["status"] == "invalid"
    assert done.json["error"]["code"]
    assert isinstance(done.json["problems"], list)


def test_json_lists_the_problems_of_an_invalid_pipeline(fm: Fm) -> None:
    done = fm("run", fm.write(pipeline(stage("a", "napp"), stage("a"))), "--json")
    assert done.code == 2
    assert done.json["problems"]
    assert all(problem["line"] for problem in done.json["problems"])


# -- streams -----------------------------------------------------------------------------------------------------------


def test_what_components_print_does_not_disturb_the_result(fm: Fm) -> None:
    fm.write(pipeline(stage("loud", config={"say": "I am a component"})))
    done = run_process("run", "p.pipeline.json", cwd=fm.directory)
    assert done.json == {"attempt": 1}
    assert "I am a component\n" in done.err
    assert "[loud] info: I am a component" in done.err


def test_a_long_loop_is_told_in_a_few_lines(fm: Fm) -> None:
    loop = stage("each", "foreach", config={"items": "{{ input.items }}", "loop_stages": ["one"], "max_parallel": 8})
    file = fm.write(pipeline(loop, set_stage("one", "{{ item }}"), output="{{ stages.each.total_items }}"))
    (fm.directory / "in.json").write_text(json.dumps({"items": list(range(3000))}))
    done = fm("run", file, "-f", "in.json")
    assert done.json == 3000
    assert len(done.err.splitlines()) < 10
    assert "(3,000 items)" in done.err


def test_a_short_loop_is_told_stage_by_stage(fm: Fm) -> None:
    loop = stage("each", "foreach", config={"items": [1, 2, 3], "loop_stages": ["one"]})
    done = fm("run", fm.write(pipeline(loop, stage("one"))))
    assert all(f"✓ each[{n}]/one" in done.err for n in range(3))


def test_two_thousand_stages_are_told_in_bounded_lines(fm: Fm) -> None:
    stages = [set_stage(f"s{n}", n, [f"s{n - 1}"] if n else []) for n in range(2000)]
    done = fm("run", fm.write(pipeline(*stages)), "--no-store")
    assert done.code == 0
    assert len(done.err.splitlines()) < 420
    assert "2,000 of 2,000 stages" in done.err


def test_a_reader_that_goes_away_ends_it_quietly(fm: Fm) -> None:
    fm.write(pipeline(set_stage("x", "y" * 200_000)))
    process = subprocess.Popen(
        command("run", "p.pipeline.json", "-q"),
        cwd=fm.directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(120), err) == (0, b"")


@pytest.mark.parametrize("closed", ["1>&-", "2>&-"])
def test_a_closed_stream_is_no_obstacle(fm: Fm, closed: str) -> None:
    line = f"exec {shlex.join(command('run', fm.write(ADD), '--sample'))} {closed}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=fm.directory, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ("" if closed.startswith("1") else '{"sum":11}\n')


# -- the store ---------------------------------------------------------------------------------------------------------


def test_no_store_leaves_nothing_behind(fm: Fm) -> None:
    fm("run", fm.write(ADD), "--sample", "--no-store")
    assert not (fm.directory / ".flowmason").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_store_that_cannot_be_opened_is_a_clear_error(fm: Fm, as_json: bool) -> None:
    (fm.directory / ".flowmason").write_text("in the way")
    done = fm("run", fm.write(ADD), "--sample", *(["--json"] if as_json else []))
    assert done.code == 1
    assert "runs.db" in done.out + done.err
    assert "Traceback" not in done.err
    if as_json:
        assert (done.json["status"], done.json["error"]["code"]) == ("failed", "store_unavailable")


def test_a_run_is_recorded_in_the_project_of_its_file(fm: Fm, tmp_path: Path) -> None:
    other = fm.directory / "elsewhere"
    fm.write(ADD, "elsewhere/p.pipeline.json")
    (other / "flowmason.json").write_text("{}")
    assert fm("run", "elsewhere/p.pipeline.json", "--sample").code == 0
    assert (other / ".flowmason" / "runs.db").exists()
    assert not (tmp_path / ".flowmason").exists()
    assert fm("runs", "list", "--project", "elsewhere", "--json").json["runs"][0]["status"] == "succeeded"


def test_several_runs_at_once_share_a_database(fm: Fm) -> None:
    fm.write(pipeline(stage("a", config={"seconds": 0.1}), stage("b", after=["a"])))
    started = [
        subprocess.Popen(
            command("run", "p.pipeline.json", "-q"),
            cwd=fm.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert [(p.communicate(timeout=120), p.returncode) for p in started] == [(('{"attempt":1}\n', ""), 0)] * 3
    assert [run["status"] for run in fm("runs", "list", "--json").json["runs"]] == ["succeeded"] * 3


def test_ray_that_is_not_installed_names_the_extra(fm: Fm, absent: Any) -> None:
    from importlib import util

    modules = ("ray_tasks", "ray_bindings", "ray_cluster", "ray_worker", "placement")
    names = [f"flowmason_ray.engine.executors.{name}" for name in modules]
    assert util.find_spec(names[0]) is not None
    absent("ray", forget=names)
    done = fm("run", fm.write(ADD), "--sample", "--on", "ray")
    assert done.code == 2
    assert "pip install 'flowmason-ray[ray]'" in done.err
    assert os.environ.get("RAY_ADDRESS") is None


def test_warnings_are_shown_before_a_run_and_not_when_quiet(fm: Fm) -> None:
    never = stage("c", "conditional", config={"condition": False, "true_branch_stages": ["b"]})
    stages = (set_stage("a", 1), never, set_stage("b", 2))
    file = fm.write(pipeline(*stages, output={"v": "{{ stages.a.v_a }}"}))
    done = fm("run", file)
    assert (done.code, done.out) == (0, '{"v":1}\n')
    assert "warning[constant_condition]" in done.err
    assert done.err.index("warning") < done.err.index("on local")
    assert "warning" not in fm("run", file, "--quiet").err
    assert json.loads(fm("run", file, "--json").out)["status"] == "succeeded"


def test_the_recorded_file_is_absolute_and_shown_from_here(fm: Fm) -> None:
    fm("run", fm.write(ADD), "--sample", "-q")
    assert fm("runs", "show", "last", "--json").json["file"] == str(fm.directory.resolve() / "p.pipeline.json")
    assert "file     p.pipeline.json" in fm("runs", "show", "last").out


def test_a_result_that_cannot_be_made_is_told_in_words(fm: Fm) -> None:
    done = fm("run", fm.write(pipeline(set_stage("a", 1), output={"x": "{{ input.nothing }}"})))
    assert done.code == 1
    shown = done.err + "".join(fm("runs", *words).out for words in (["list"], ["show", "last"], ["story", "last"]))
    assert "The result cannot be made: " in shown
    assert "the result: " in shown
    assert "$output" not in shown


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"])
def test_ray_is_said_to_be_starting_before_anything_happens(
    fm: Fm, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    from flowmason_ray.api import PreparedRun
    from flowmason_ray.cli.plain_view import PlainView
    from flowmason_ray.engine.events import RunCancelled
    from flowmason_ray.errors import Failure

    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    view = PlainView()
    view.begin(PreparedRun(ADD, {"a": 1}, on="ray"))
    assert view.preparing == (f"connecting to Ray at {address}…" if address else "starting Ray…")
    view(RunCancelled(failure=Failure(code="cancelled", message="The run was cancelled.")))
    assert view.preparing is None


def test_without_an_input_it_says_how_to_give_one(fm: Fm) -> None:
    file = fm.write(ADD)
    assert "--sample" in fm("run", file).err
    assert "--sample" not in fm("run", file, "-i", '{"b": 1}').err
