"""Check that the lock files hold versions and hashes alone, agree with each other, and fit pyproject.toml.

The grammar is closed: a line is a pinned requirement, a hash, or empty. So no address of a package index, no path and
no option can get into the repository, whatever the machine was configured with that wrote the files.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][a-z0-9.+!]*)(?: ; [a-z_]+ [!=<>]+ '[^'/:@]+'(?: (?:and|or) [a-z_]+ [!=<>]+ '[^'/:@]+')*)? \\"
)
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def read(file: Path) -> tuple[dict[str, str], list[str]]:
    """Return the pinned versions by name, and a complaint for every line that does not belong."""
    pins: dict[str, str] = {}
    complaints: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        pin = PIN.fullmatch(line)
        if pin is not None:
            pins[pin["name"]] = pin["version"]
        elif HASH.fullmatch(line) is None:
            complaints.append(f"{file.relative_to(ROOT)}:{number}: neither a pinned version nor a hash: {line!r}")
    if not pins:
        complaints.append(f"{file.relative_to(ROOT)}: pins nothing")
    return pins, complaints


def names(requirements: list[Any]) -> set[str]:
    """Return the normalised names of a list of requirements; references to groups and to ourselves are left out."""
    found = {m.group() for r in requirements if isinstance(r, str) and (m := NAME.match(r)) is not None}
    return {re.sub(r"[-_.]+", "-", n).lower() for n in found} - {"flowmason-ray"}


DEMO_EXTRAS = ("ray", "tables", "charts")
"""What the demo needs; `scripts/lock` says the same."""

APART = ("llama-cpp", "vllm")
"""Extras that are not installed for development: one is compiled for minutes (`scripts/install_llama`), the other brings CUDA."""


def main() -> int:
    """Print what is wrong and return how to exit: 0 nothing, 1 something."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    base = names(project["project"]["dependencies"])
    optional = project["project"]["optional-dependencies"]
    extras = base.union(*(names(r) for r in optional.values()))
    extras -= set[str]().union(*(names(optional[name]) for name in APART)) - base
    demo = base.union(*(names(optional[name]) for name in DEMO_EXTRAS))
    groups = {name: names(r) for name, r in project["dependency-groups"].items()}
    wanted = {
        "dev": extras | groups["build"] | groups["dev"],
        "demo": demo | groups["build"],
        "base": base,
        "uv": {"uv"},
        "llama": names(optional["llama-cpp"]),
    }
    complaints: list[str] = []
    locked: dict[str, dict[str, str]] = {}
    for name, needed in wanted.items():
        locked[name], found = read(ROOT / "requirements" / f"{name}.txt")
        complaints += found
        complaints += [
            f"requirements/{name}.txt: {n!r} of pyproject.toml is missing" for n in sorted(needed - locked[name].keys())
        ]
    for name in ("demo", "base"):
        for package, version in locked[name].items():
            if locked["dev"].get(package) != version:
                complaints.append(
                    f"requirements/{name}.txt: {package} {version}, but {locked['dev'].get(package)} in dev.txt"
                )
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        print("Run: make lock", file=sys.stderr)
        return 1
    print(f"lock files: {len(locked['dev'])} packages, versions and hashes only")
    return 0


if __name__ == "__main__":
    sys.exit(main())
