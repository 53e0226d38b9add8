"""`fm diff` and `fm merge` as they are called: what they compare, every way of showing it, every way of deciding."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Fm, command, environment
from tests.git_kit import FILE, Repository
from tests.stories import PROMPT, Document, at, copies, log, renamed, support, without


def changed() -> Document:
    """Return the support pipeline with one change of every kind."""
    document = renamed(support(), "clean", "tidy")
    document["description"] = "Answers tickets of customers."
    at(document, "answer")["config"]["message"] = at(document, "answer")["config"]["message"].replace("short", "brief")
    at(document, "triage")["config"]["routes"]["bug"].append("thank")
    at(document, "report")["depends_on"] = ["triage", "words"]
    at(document, "words")["depends_on"] = ["triage"]
    document["stages"].append(log("thank", "Thank <you> & `all`.\nSee | you."))
    document = without(document, "ask_back")
    del at(document, "triage")["config"]["default_route"]
    return document


@pytest.fixture
def pair(fm: Fm) -> tuple[str, str]:
    return fm.write(support(), "a.pipeline.json"), fm.write(changed(), "b.pipeline.json")


# -- what is compared ----------------------------------------------------------------------------------------------------


def test_two_files(fm: Fm, pair: tuple[str, str]) -> None:
    done = fm("diff", *pair)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].endswith("1 stage added, 1 removed, 1 renamed, 4 changed; about")
    assert "> stage clean is now tidy (variable_set)" in lines
    assert (
        "    config.message: … a shop for bicycles. Be polite and [-short-]{+brief+}. Say what happens next and when. …"
        in lines
    )
    assert "    in routes.bug of 'triage'" in lines
    assert "    config.routes.bug: +thank" in lines
    assert "- stage ask_back (logger) removed" in lines


def test_the_exit_code_tells_whether_there_are_differences_when_asked(fm: Fm, pair: tuple[str, str]) -> None:
    assert fm("diff", "--exit-code", *pair).code == 1
    same = fm("diff", "--exit-code", pair[0], pair[0])
    assert (same.code, same.out.splitlines()[0].endswith("no differences")) == (0, True)


@pytest.mark.parametrize("content", ["{", '{"name": "x", "stages": [{"id": "a"}]}', "\xff"])
def test_a_file_that_is_no_pipeline(fm: Fm, pair: tuple[str, str], content: str) -> None:
    (fm.directory / "bad.pipeline.json").write_text(content, encoding="latin-1")
    for call in (
        ("diff", pair[0], "bad.pipeline.json"),
        ("merge", pair[0], "bad.pipeline.json", pair[1], "-o", "out.json"),
    ):
        done = fm(*call)
        assert (done.code, "bad.pipeline.json" in done.err, "Traceback" in done.err) == (2, True, False)
    assert not (fm.directory / "out.json").exists()


def test_versions_in_git(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    repository.commit("one", support())
    repository.commit("two", changed())
    repository.git("tag", "v2")
    repository.git("mv", FILE, "moved.pipeline.json")
    repository.commit("three")
    ours = {**changed(), "version": "2.0.0"}
    repository.write(ours, "moved.pipeline.json")
    told = {
        call: repository.fm("diff", *call).out
        for call in (
            ("moved.pipeline.json",),
            ("HEAD~2", "HEAD~1", "--", FILE),
            ("HEAD~2..v2", "--", FILE),
            ("HEAD~2", "HEAD"),
            (),
        )
    }
    assert 'version: "1.2.0" → "2.0.0"' in told["moved.pipeline.json",]
    assert told["moved.pipeline.json",] == told[()]
    assert "> stage clean is now tidy" in told["HEAD~2", "HEAD~1", "--", FILE]
    assert "> stage clean is now tidy" in told["HEAD~2..v2", "--", FILE]
    assert "moved.pipeline.json at HEAD): 1 stage added" in told["HEAD~2", "HEAD"]
    assert repository.fm("diff", "HEAD~1", "HEAD~1").out == "No pipeline changed.\n"
    for call in (("HEAD", "--", "nothing.pipeline.json"), ("no-such-revision", "HEAD"), ("HEAD", "HEAD", "HEAD")):
        done = repository.fm("diff", *call)
        assert (done.code, "Traceback" in done.err) == (2, False), call
    deeper = repository.root / "deeper"
    deeper.mkdir()
    assert repository.run(command("diff", "../moved.pipeline.json"), cwd=deeper).out.startswith("Support")


def test_a_file_that_is_new_or_gone(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path, drivers=False)
    repository.commit("one", support())
    repository.write(changed(), "new.pipeline.json")
    added = repository.fm("diff", "new.pipeline.json").out
    assert (
        added.splitlines()[0] == "Support (new.pipeline.json at HEAD → new.pipeline.json): 7 stages added; about, input"
    )
    assert '    config.message: + "A bug: {{ stages.tidy.value }}"' in added.splitlines()
    (repository.root / FILE).unlink()
    gone = repository.fm("diff", "--format", "json").json["files"][0]
    assert (gone["a"], len(gone["stages"]["removed"])) == (f"{FILE} at HEAD", 7)


# -- how it is shown -----------------------------------------------------------------------------------------------------


class Balanced(HTMLParser):
    """Notes tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "path", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect") and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_html_draws_both_sides_and_needs_nothing_else(fm: Fm, pair: tuple[str, str]) -> None:
    assert fm("diff", *pair, "-o", "d.html").code == 0
    page = (fm.directory / "d.html").read_text(encoding="utf-8")
    checker = Balanced()
    checker.feed(page)
    assert (checker.open, checker.wrong) == ([], [])
    assert page.count("<svg") == 2
    assert 'data-stage="thank" data-change="added"' in page
    assert 'data-stage="ask_back" data-change="removed"' in page
    assert "Thank &lt;you&gt; &amp;" in page
    assert "<del>short</del><ins>brief</ins>" in page
    assert "src=" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_svg_draws_both_in_one(fm: Fm, pair: tuple[str, str]) -> None:
    done = fm("diff", *pair, "--format", "svg")
    root = ET.fromstring(done.out)
    changes = {g.get("data-stage"): g.get("data-change") for g in root.iter() if g.get("data-stage")}
    assert changes == {
        "tidy": "renamed",
        "triage": "changed",
        "file_bug": "plain",
        "answer": "changed",
        "words": "changed",
        "report": "changed",
        "thank": "added",
        "ask_back": "removed",
    }
    assert "clean → tidy" in done.out


def test_mermaid_marks_what_changed(fm: Fm, pair: tuple[str, str]) -> None:
    lines = fm("diff", *pair, "--format", "mermaid").out.splitlines()
    assert lines[0] == "flowchart TD"
    assert any("+ thank<br/>" in line for line in lines)
    assert any("==>" in line for line in lines)
    assert any(line.startswith("  classDef removed") for line in lines)


def test_markdown_can_be_pasted(fm: Fm, pair: tuple[str, str]) -> None:
    text = fm("diff", *pair, "--format", "markdown").out
    assert "🔵 **Stage `clean` is now `tidy`** (variable\\_set) renamed" in text
    assert text.count("```") % 2 == 0
    assert "  - … a shop for bicycles. Be polite and short. Say" in text
    assert "  + … a shop for bicycles. Be polite and brief. Say" in text
    assert "```mermaid" in text


def test_json_is_everything(fm: Fm, pair: tuple[str, str]) -> None:
    (told,) = fm("diff", *pair, "--format", "json").json["files"]
    assert told["renames"] == {"clean": "tidy"}
    assert told["stages"]["added"] == ["thank"]
    assert {"path": "/stages/report/depends_on/words", "new": True} in told["changes"]
    assert {"from": "triage", "to": "words"} in told["edges"]["added"]
    assert told["equal"] is False


def test_a_stage_that_moves_into_a_body(fm: Fm) -> None:
    base, inside, _ = copies(support())
    at(inside, "triage")["config"]["routes"]["bug"].append("words")
    inside["stages"] = [s for s in inside["stages"] if s["id"] != "report"]
    del base["stages"][-1]
    text = fm("diff", fm.write(base, "a.pipeline.json"), fm.write(inside, "b.pipeline.json")).out
    assert "    moved to routes.bug of 'triage' (was: the top level)" in text.splitlines()


def test_a_format_that_is_not_there(fm: Fm, pair: tuple[str, str]) -> None:
    done = fm("diff", *pair, "--format", "markdwon")
    assert (done.code, "Did you mean 'markdown'?" in done.err) == (2, True)


# -- merging -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(fm: Fm) -> list[str]:
    """Two versions that change one prompt, and one of which has a stage more."""
    base, ours, theirs = copies(support())
    at(ours, "answer")["config"]["message"] = PROMPT.replace("short", "brief")
    at(theirs, "answer")["config"]["message"] = PROMPT.replace("short", "terse")
    theirs["stages"].append(log("bye", "Bye."))
    sides = (("base", base), ("ours", ours), ("theirs", theirs))
    return [fm.write(document, f"{name}.pipeline.json") for name, document in sides]


PLACE = "/stages/answer/config/message"


def message(text: str) -> str:
    stage: str = at(json.loads(text), "answer")["config"]["message"]
    return stage


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--ours"], "brief"),
        (["--theirs"], "terse"),
        (["--choose", f"{PLACE}=base"], "short"),
        (["--ours", "--choose", f"{PLACE}=theirs"], "terse"),
    ],
)
def test_deciding_at_once_and_later(fm: Fm, three: list[str], options: list[str], word: str) -> None:
    done = fm("merge", *three, *options)
    assert done.code == 0
    assert f"polite and {word}" in message(done.out)
    assert fm("merge", *three, "-o", "m.pipeline.json").code == 1
    assert fm("merge", "--continue", "m.pipeline.json", *options).code == 0
    assert (fm.directory / "m.pipeline.json").read_text(encoding="utf-8") == done.out


def test_what_is_open_is_refused_everywhere_and_survives_formatting(fm: Fm, three: list[str]) -> None:
    assert fm("merge", *three, "-o", "m.pipeline.json").code == 1
    before = (fm.directory / "m.pipeline.json").read_bytes()
    for call in (["validate"], ["plan"], ["run", "--sample"], ["diff", three[0]]):
        done = fm(*call, "m.pipeline.json")
        assert (done.code, "unresolved_conflicts" in done.err) == (2, True), call
    assert fm("fmt", "m.pipeline.json").code == 0
    assert (fm.directory / "m.pipeline.json").read_bytes() == before


def test_json_holds_conflicts_and_result(fm: Fm, three: list[str]) -> None:
    done = fm("merge", *three, "--json")
    told = done.json
    assert (done.code, told["clean"], [c["path"] for c in told["conflicts"]]) == (1, False, [PLACE])
    assert told["conflicts"][0]["choices"] == ["ours", "theirs", "base"]
    assert "bye" in {s["id"] for s in told["document"]["stages"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ours", "--theirs"], "exclude each other"),
        (["--choose", "nonsense"], "PATH=ours"),
        (["--choose", "/stages/answer/config/mesage=ours"], f"Did you mean '{PLACE}'"),
        (["--continue", "ours.pipeline.json"], "takes one file"),
    ],
)
def test_a_call_that_cannot_be_meant(fm: Fm, three: list[str], options: list[str], words: str) -> None:
    done = fm("merge", *three, *options, "-o", "m.pipeline.json")
    assert (done.code, words in done.err) == (2, True)
    assert not (fm.directory / "m.pipeline.json").exists()
    assert fm("merge", three[0]).code == 2


def test_a_decision_that_does_not_run_is_told(fm: Fm) -> None:
    base, ours, theirs = copies(support())
    ours = without(ours, "ask_back")
    del at(ours, "triage")["config"]["default_route"]
    at(theirs, "ask_back")["config"]["message"] = "What is it?"
    sides = (("base", base), ("ours", ours), ("theirs", theirs))
    files = [fm.write(document, f"{name}.pipeline.json") for name, document in sides]
    assert fm("merge", *files, "-o", "m.pipeline.json").code == 1
    assert fm("merge", "--continue", "m.pipeline.json", "--ours").code == 0
    assert fm("validate", "m.pipeline.json").code == 0


def test_numbers_are_written_back_as_they_were(fm: Fm) -> None:
    texts = [
        json.dumps(document).replace('"RATE"', "1e3").replace('"SMALL"', "0.000010")
        for document in (_rated(""), _rated("ours"), _rated("theirs"))
    ]
    files = [fm.write(text, f"{n}.pipeline.json") for n, text in enumerate(texts)]
    done = fm("merge", *files)
    assert done.code == 0
    assert '"rate": 1e3' in done.out
    assert '"small": 0.000010' in done.out
    assert "no differences" in fm("diff", files[0], fm.write(texts[0].replace("1e3", "1000.0"), "n.pipeline.json")).out


def _rated(more: str) -> Document:
    document = copies(support())[0]
    at(document, "words")["metadata"] = {"rate": "RATE", "small": "SMALL"}
    return {**document, "metadata": {more: 1} if more else {}}


def test_a_merge_asks_on_a_terminal(fm: Fm, three: list[str]) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("merge", *three, "-o", "m.pipeline.json"),
        cwd=fm.directory,
        env=environment(),
        stdin=slave,
        stderr=slave,
    )
    os.close(slave)
    os.write(master, b"what?\nt\n")
    screen = b""
    while chunk := _read(master):
        screen += chunk
    os.close(master)
    assert process.wait(120) == 0
    assert screen.count(b"[o]urs, [t]heirs, [b]ase, [s]kip or [q]uit?") == 2
    assert "polite and terse" in message((fm.directory / "m.pipeline.json").read_text(encoding="utf-8"))


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # EIO: the other side is closed
        return b""
