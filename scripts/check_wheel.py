"""Build the wheel and try it the way a stranger does: in a clean environment, without Ray.

1. Build the wheel and the source distribution; look at what is in them.
2. Install the wheel beside requirements/base.txt, by hash, in a new virtual environment.
3. There, outside this tree: Ray cannot be imported; `import flowmason_ray` is light; `fm --help`, `fm validate` and `fm run`
   of an example work; asking for Ray says which extra is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "hello" / "hello.pipeline.json"
"""Needs nothing but the base install, and has a `sample_input`."""

WITHIN = ("flowmason_ray/py.typed", "flowmason_ray/cli/__init__.py", "*.schema.json", "*.dist-info/licenses/LICENSE")
"""What the wheel must hold."""

IMPORTS = """
import json, sys
before = set(sys.modules)
import flowmason_ray
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
HEAVY = {"ray", "polars", "pyarrow", "altair", "vl_convert", "httpx", "jsonschema", "rich", "typer"}


class Failed(Exception):
    """A check did not hold; the message says which and what was seen."""


def run(*command: str | Path, cwd: Path | None = None, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command without this tree on any path, and return what it said.

    Raises:
        Failed: it exited with another code than expected.
    """
    # The user's own packages and this tree must not answer for what is not installed.
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    env = {k: v for k, v in os.environ.items() if k not in hidden} | {"PYTHONNOUSERSITE": "1", "NO_COLOR": "1"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != expect:
        shown = " ".join(str(c) for c in command)
        raise Failed(f"`{shown}` exited with {done.returncode}, expected {expect}.\n{done.stdout}{done.stderr}")
    return done


def build(target: Path) -> Path:
    """Build both distributions into `target`, check their contents, and return the wheel."""
    run(sys.executable, "-m", "hatchling", "build", "-d", target, cwd=ROOT)
    (wheel,) = target.glob("*.whl")
    (source,) = target.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(n) for n in archive.namelist()]
    missing = [pattern for pattern in WITHIN if not any(n.match(pattern) for n in names)]
    if missing:
        raise Failed(f"The wheel does not hold {missing}.")
    strangers = sorted(str(n) for n in names if n.parts[0] != "flowmason_ray" and ".dist-info" not in n.parts[0])
    if strangers:
        raise Failed(f"The wheel holds what does not belong to the package: {strangers}.")
    with tarfile.open(source) as archive:
        inside = {Path(*Path(n).parts[1:]).as_posix() for n in archive.getnames()}
    missing = [n for n in ("pyproject.toml", "LICENSE", "README.md", "tests/conftest.py") if n not in inside]
    if missing:
        raise Failed(f"The source distribution does not hold {missing}.")
    return wheel


def install(wheel: Path, venv: Path) -> None:
    """Install the wheel into a new environment, beside the locked base requirements and nothing else."""
    run(sys.executable, "-m", "venv", venv)
    run(ROOT / "scripts" / "install", venv, ROOT / "requirements" / "base.txt", wheel)


def try_out(venv: Path, folder: Path) -> None:
    """Use the installed package from `folder`, which lies outside this tree."""
    python, fm = venv / "bin" / "python", venv / "bin" / "fm"
    for library in ("ray", "polars"):
        said = run(python, "-c", f"import {library}", cwd=folder, expect=1).stderr
        if f"No module named {library!r}" not in said:
            raise Failed(f"{library} should be absent, but importing it says: {said}")
    heavy = HEAVY & set(json.loads(run(python, "-c", IMPORTS, cwd=folder).stdout))
    if heavy:
        raise Failed(f"`import flowmason_ray` imports {sorted(heavy)}.")
    run(python, "-m", "flowmason_ray", "--help", cwd=folder)
    if "validate" not in run(fm, "--help", cwd=folder).stdout:
        raise Failed("`fm --help` does not name `validate`.")
    example = folder / EXAMPLE.parent.name
    shutil.copytree(EXAMPLE.parent, example)
    pipeline = example / EXAMPLE.name
    run(fm, "validate", pipeline, cwd=folder)
    result = json.loads(run(fm, "run", pipeline, "--sample", "--json", cwd=folder).stdout)
    if result["status"] != "succeeded":
        raise Failed(f"The example did not succeed: {result}")
    refused = run(fm, "run", pipeline, "--sample", "--on", "ray", cwd=folder, expect=2)
    said = refused.stdout + refused.stderr
    if "flowmason-ray[ray]" not in said or "Traceback" in said:
        raise Failed(f"`--on ray` without Ray should name the extra that is missing; it said: {said}")


def main() -> int:
    """Run all checks; return how to exit: 0 when they hold, 1 when one does not."""
    with tempfile.TemporaryDirectory(prefix="flowmason-wheel-") as temporary:
        folder = Path(temporary)
        try:
            wheel = build(folder / "dist")
            install(wheel, folder / "venv")
            try_out(folder / "venv", folder)
        except Failed as exc:
            print(f"check_wheel: {exc}", file=sys.stderr)
            return 1
        print(f"wheel: {wheel.name} ({wheel.stat().st_size / 1024:.0f} KiB) works without Ray")
    return 0


if __name__ == "__main__":
    sys.exit(main())
