"""The README and the guide do what they say: their commands and programs are run, in order, page by page.

Comments that readers do not see say what a block is:

    <!-- file: NAME -->     the block is written to a file
    <!-- prints -->         what the commands before it have printed, line by line; times, run ids and such may differ
    <!-- not run: WHY -->   the block is left alone

A `bash` block is run in the directory where the one before it ended; `bash exits 2` says how its last command exits. A
`python` block is a program. A `json` block is at least JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowmason_ray import validate
from tests.cli_kit import ROOT

GUIDE = ROOT / "docs" / "guide"
PAGES = [
    ROOT / "README.md",
    *(
        GUIDE / f"{name}.md"
        for name in (
            "first-pipeline",
            "components",
            "inheritance",
            "runs-and-log",
            "caching-and-reuse",
            "project",
            "prompts",
            "diff-and-merge",
            "documents-and-retrieval",
            "compliance",
            "mcp",
            "models",
            "data",
            "delivery",
            "observability",
        )
    ),
]
ON_RAY = [GUIDE / "running-on-ray.md"]
ALL = sorted([ROOT / "README.md", *GUIDE.glob("*.md")])

BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>\w+)(?P<words>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
VARIES = [
    (re.compile(r"r_[0-9a-z]{8,}"), "RUN"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?"), "DATE"),
    (re.compile(r"plan [0-9a-f]{16}"), "PLAN"),
    (re.compile(r" +"), " "),
]


@dataclass
class Page:
    """A page being run."""

    directory: Path
    environment: dict[str, str]
    printed: list[str] = field(default_factory=list[str])

    def run(self, block: re.Match[str]) -> None:
        """Do what one block says."""
        note, language, text = block["note"] or "", block["language"], block["text"]
        if note.startswith("not run"):
            assert ":" in note, "say why it is not run"
        elif note.startswith("file: "):
            file = self.directory / note.removeprefix("file: ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            if file.name.endswith(".pipeline.json"):
                assert validate(file) == []
        elif note == "prints":
            self._compare(text)
        elif language == "bash":
            words: str = block["words"]
            self._shell(text, int(words.split()[1]) if words.strip() else 0)
        elif language == "python":
            self.process([sys.executable, "-c", text], 0)
        elif language == "json":
            json.loads(text)
        else:
            assert language in ("text", "csv"), f"what is {language!r}?"

    def _shell(self, text: str, code: int) -> None:
        script = f"set -e\n{text}\n" if code == 0 else text
        where = self.directory.parent / "cwd"
        self.process(["bash", "-c", f"trap 'pwd > {where}' EXIT\n{script}"], code)
        self.directory = Path(where.read_text(encoding="utf-8").strip())

    def process(self, command: list[str], code: int) -> None:
        """Run a command, and keep what it prints."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, f"{command[-1]}\nexits {done.returncode}:\n{done.stdout}"
        self.printed = done.stdout.splitlines()

    def _compare(self, text: str) -> None:
        printed = {same(line) for line in self.printed}
        missing = [line for line in text.splitlines() if line.strip() not in ("", "…") and same(line) not in printed]
        assert not missing, "\n".join([*missing, "--- is not among what was printed:", *self.printed])


def same(line: str) -> str:
    """Return a line without what differs from run to run."""
    for pattern, word in VARIES:
        line = pattern.sub(word, line)
    return line.strip()


def blocks(page: Path) -> list[re.Match[str]]:
    return list(BLOCK.finditer(page.read_text(encoding="utf-8")))


def open_page(tmp_path: Path, **environment: str) -> Page:
    """Return a page in an empty directory, with `fm` and `python` on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in (("fm", f'"{sys.executable}" -m flowmason_ray'), ("python", f'"{sys.executable}"')):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return Page(home, {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TERM": "dumb", **environment})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    opened = open_page(tmp_path)
    for block in blocks(page):
        opened.run(block)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", ON_RAY, ids=lambda p: p.stem)
def test_a_page_does_what_it_says_on_ray(page: Path, tmp_path: Path, ray_cluster: str) -> None:
    opened = open_page(tmp_path, RAY_ADDRESS=ray_cluster)
    for block in blocks(page):
        opened.run(block)


@pytest.mark.parametrize("page", ALL, ids=lambda p: p.stem)
def test_every_json_block_is_json(page: Path) -> None:
    for block in blocks(page):
        if block["language"] == "json":
            json.loads(block["text"])


def test_a_page_that_runs_something_is_run() -> None:
    shows = {page for page in ALL if any(b["language"] in ("bash", "python") for b in blocks(page))}
    own_tests = {GUIDE / "testing-engine.md", GUIDE / "testing.md"}  # tests/unit/testing, tests/unit/pipeline_tests
    assert sorted(shows - {*PAGES, *ON_RAY, *own_tests}) == []


def test_the_picture_of_the_demo_is_what_fm_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "plan.svg"
    opened = open_page(tmp_path)
    opened.directory = ROOT
    opened.process(["fm", "plan", "examples/demo/flights.pipeline.json", "--format", "svg", "-o", str(drawn)], 0)
    kept = ROOT / "docs" / "images" / "flights-plan.svg"
    assert kept.read_bytes() == drawn.read_bytes()
    assert kept.stat().st_size < 200_000


def test_the_readmes_exit_codes_are_those_of_the_guide() -> None:
    def codes(page: Path) -> list[str]:
        return re.findall(r"^\| (\d+) \|", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert codes(ROOT / "README.md") == codes(GUIDE / "cli.md")


def test_the_index_names_every_page() -> None:
    index = (GUIDE / "index.md").read_text(encoding="utf-8")
    assert [
        page.name for page in sorted(GUIDE.glob("*.md")) if page.stem != "index" and f"({page.name})" not in index
    ] == []


def test_the_guide_tells_every_kind_of_event() -> None:
    from flowmason_ray.engine.events import EVENT_TYPES

    page = (GUIDE / "runs-and-log.md").read_text(encoding="utf-8").split("\n## Events\n")[1].split("\n## ")[0]
    assert sorted(kind for kind in EVENT_TYPES if f"`{kind}`" not in page) == []


def test_the_guide_tells_everything_that_a_component_knows() -> None:
    from flowmason_ray.engine.component import Context

    page = (GUIDE / "components.md").read_text(encoding="utf-8").split("## What it knows")[1].split("\n## ")[0]
    names = [name for name in vars(Context) if not name.startswith("_")]
    assert sorted(name for name in names if not re.search(rf"`{name}\b", page)) == []


def test_the_architecture_names_every_layer() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    names = {word for line in contracts[0]["layers"] for word in re.findall(r"[a-z_]+", line)}
    told = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Layers")[1].split("\n## ")[0]
    assert sorted(name for name in names - {"__main__"} if not re.search(rf"\b{name}\b", told)) == []
