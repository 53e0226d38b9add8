"""Prompts of model nodes: editable files with versions, packaged here and overridable by a project.

    prompts/NAME/VERSION.md     front matter between `---` lines, then `# system` and `# user` with templates beneath

A project's file of the same name and version comes before the packaged one; other versions stand beside it. What is said
nowhere is the project's newest version, else the newest packaged one (`v10` is newer than `v9`; other words are only used
when asked for). A paragraph that comes out empty is left out, so that a paragraph can be conditional.

The text is parsed once, before any data is seen: data is what expressions read, and is never parsed itself. Which text a
stage uses is settled when its plan is made and travels with it, so its content is part of the stage's fingerprint, and a
file that is edited while a run goes on changes nothing in that run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from flowmason_ray.components.files import write_atomic
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import InvalidPipeline, PermanentError, Problem, nearest
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError
from flowmason_ray.spec.templates import Template, parse_template

PACKAGED = Path(__file__).parent / "prompts"
"""The prompts that come with FlowMason."""
PROJECT_DIR = "prompts"
"""Where a project keeps its own, relative to its root."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_NUMBERED = re.compile(r"v(\d+)")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n+")
_SECTION = re.compile(r"^# (system|user)[ \t]*$", re.MULTILINE)

Origin = Literal["built-in", "project"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What a model is told."""

    system: str | None
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One version of a prompt, parsed."""

    name: str
    version: str
    origin: Origin
    text: str
    """The file as it is."""
    file: str | None
    facts: Mapping[str, str]
    """The front matter: `description`, `variables`, …"""
    system: tuple[Template, ...]
    """Its paragraphs."""
    user: tuple[Template, ...]

    @property
    def description(self) -> str:
        """What it is for."""
        return self.facts.get("description", "")

    @property
    def variables(self) -> tuple[str, ...]:
        """What may be read in it."""
        return tuple(name.strip() for name in self.facts.get("variables", "").split(",") if name.strip())

    @property
    def digest(self) -> str:
        """What its content is known by."""
        return prompt_digest(self.text)

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """Return what a model is told.

        Raises:
            ExpressionError: a template cannot be evaluated with these values.
        """
        scope = DictScope(values)
        system, user = (_join(part.render(scope) for part in parts) for parts in (self.system, self.user))
        return Rendered(system=system or None, user=user)


def prompt_digest(text: str) -> str:
    """Return what a prompt's content is known by: 16 hexadecimal digits."""
    return sha256(text.encode()).hexdigest()[:16]


def _join(paragraphs: Iterable[Any]) -> str:
    return "\n\n".join(text for each in paragraphs if (text := _words(each)).strip())


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def parse_prompt(text: str, *, name: str, version: str, origin: Origin, file: str | None = None) -> Prompt:
    """Parse a prompt's file.

    Raises:
        InvalidPipeline: it is none (code `invalid_prompt_file`), with every reason.
    """
    facts, body, offset = _front_matter(text)
    problems: list[Problem] = []

    def refuse(message: str, line: int | None = None) -> None:
        problems.append(
            Problem(code="invalid_prompt_file", message=message, file=file or f"{name}/{version}", line=line)
        )

    marks = list(_SECTION.finditer(body))
    sections: dict[str, tuple[Template, ...]] = {}
    for mark, following in zip_longest(marks, marks[1:]):
        content = body[mark.end() : following.start() if following else len(body)]
        line = offset + body.count("\n", 0, mark.end()) + 1
        if mark[1] in sections:
            refuse(f"It has the section '# {mark[1]}' twice.", line)
        sections[mark[1]] = _templates(content, line, refuse)
    if "user" not in sections:
        refuse("It has no section '# user'. A prompt has front matter, '# system' (may be missing) and '# user'.")
    if problems:
        raise InvalidPipeline(problems)
    return Prompt(
        name=name,
        version=version,
        origin=origin,
        text=text,
        file=file,
        facts=facts,
        system=sections.get("system", ()),
        user=sections["user"],
    )


def _front_matter(text: str) -> tuple[dict[str, str], str, int]:
    """Return the facts, what follows them, and how many lines they take."""
    lines = text.split("\n")
    if lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return {}, text, 0
    end = next(i for i, line in enumerate(lines[1:], 1) if line.strip() == "---")
    said = (line.partition(":") for line in lines[1:end] if ":" in line)
    return {key.strip(): value.strip() for key, _, value in said}, "\n".join(lines[end + 1 :]), end + 1


def _templates(content: str, line: int, refuse: Any) -> tuple[Template, ...]:
    made: list[Template] = []
    for paragraph in _PARAGRAPHS.split(content.strip()):
        errors: list[ExpressionSyntaxError] = []
        made.append(parse_template(paragraph, errors=errors))
        for error in errors:
            refuse(f"{error.message} It stands in the section that begins in line {line}.", line)
    return tuple(made)


@dataclass(frozen=True)  # no slots: it keeps what it has read
class PromptLibrary:
    """The prompts of a project: the packaged ones, and its own."""

    project_dir: Path | None
    """None: the packaged ones alone."""
    packaged_dir: Path = field(default=PACKAGED)

    @cached_property
    def _folders(self) -> tuple[tuple[Origin, Path], ...]:
        packaged: tuple[Origin, Path] = ("built-in", self.packaged_dir)
        return (packaged,) if self.project_dir is None else (("project", self.project_dir / PROJECT_DIR), packaged)

    def names(self) -> list[str]:
        """Return the names of all prompts, sorted."""
        found = {each.name for _, folder in self._folders if folder.is_dir() for each in folder.iterdir()}
        return sorted(name for name in found if _NAME.fullmatch(name) and self.versions(name))

    def versions(self, name: str) -> dict[str, Origin]:
        """Return the versions of a prompt, the newest last, and where each comes from."""
        found: dict[str, Origin] = {}
        for origin, folder in self._folders:
            if _NAME.fullmatch(name) and (folder / name).is_dir():
                for file in (folder / name).glob("*.md"):
                    found.setdefault(file.stem, origin)
        return {version: found[version] for version in sorted(found, key=_age)}

    def default(self, name: str) -> str | None:
        """Return the version that holds when none is named; None: there is none."""
        versions = self.versions(name)
        own = [version for version, origin in versions.items() if origin == "project" and _NUMBERED.fullmatch(version)]
        return own[-1] if own else next((v for v in reversed(versions) if _NUMBERED.fullmatch(v)), None)

    def find(self, name: str, version: str | None = None) -> Prompt:
        """Return a prompt.

        Raises:
            InvalidPipeline: there is none (`prompt_not_found`), or its file is none (`invalid_prompt_file`).
        """
        versions = self.versions(name)
        wanted = self.default(name) if version is None else version if version in versions else f"v{version}"
        if wanted is None or wanted not in versions:
            raise InvalidPipeline([self._missing(name, version, list(versions))])
        origin = versions[wanted]
        file = dict(self._folders)[origin] / name / f"{wanted}.md"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            problem = Problem(code="invalid_prompt_file", message=f"Cannot read it: {exc}.", file=str(file))
            raise InvalidPipeline([problem]) from exc
        prompt = parse_prompt(text, name=name, version=wanted, origin=origin, file=str(file))
        self._check_variables(prompt)
        return prompt

    def _missing(self, name: str, version: str | None, versions: list[str]) -> Problem:
        if not versions:
            message = f"There is no prompt {name!r}."
            close = nearest(name, self.names())
            hint = f"A project's own stand in {PROJECT_DIR}/NAME/v1.md; 'fm prompts list' shows all."
            return Problem(code="prompt_not_found", message=message, nearest=close, hint=hint, found=name)
        if version is None:
            message = f"Prompt {name!r} has no version of the form v1, v2, …; name the one that is meant."
            return Problem(code="prompt_not_found", message=message, expected=", ".join(versions))
        message = f"Prompt {name!r} has no version {version!r}; there is: {', '.join(versions)}."
        return Problem(code="prompt_not_found", message=message, nearest=nearest(version, versions), found=version)

    def _check_variables(self, prompt: Prompt) -> None:
        """Refuse a prompt that reads what its component does not give: told before anything runs."""
        known = self._variables(prompt)
        read = {ref.root for part in (*prompt.system, *prompt.user) for _, ref in part.references}
        if unknown := sorted(read - set(known)) if known else []:
            problems = [
                Problem(
                    code="invalid_prompt_file",
                    message=f"It reads {name!r}; a prompt {prompt.name!r} can read: {', '.join(known)}.",
                    file=prompt.file,
                    nearest=nearest(name, known),
                )
                for name in unknown
            ]
            raise InvalidPipeline(problems)

    def _variables(self, prompt: Prompt) -> Sequence[str]:
        """Return what a prompt may read: what the packaged prompt of that name says, else what it says itself."""
        folder = self.packaged_dir / prompt.name
        if prompt.origin == "project" and folder.is_dir():
            for file in sorted(folder.glob("*.md"), key=lambda each: _age(each.stem), reverse=True):
                packaged = _front_matter(file.read_text(encoding="utf-8"))[0]
                return [name.strip() for name in packaged.get("variables", "").split(",")]
        return prompt.variables

    def choose(self, names: Sequence[str], version: str | None) -> dict[str, Any]:
        """Return what a stage's plan keeps of its prompts: name → `version` and `text` (`engine.stage_settings.PromptChoice`).

        Raises:
            InvalidPipeline: as `find`.
        """
        found = [self.find(name, version) for name in names]
        return {each.name: {"version": each.version, "text": each.text} for each in found}

    def eject(self, name: str, version: str | None = None, *, overwrite: bool = False) -> Path:
        """Copy a packaged prompt into the project, to be edited there; return the new file.

        Raises:
            InvalidPipeline: there is no such prompt (`prompt_not_found`), or the project has its own already (`file_exists`).
        """
        assert self.project_dir is not None, "there is no project to put it into"
        prompt = PromptLibrary(None, self.packaged_dir).find(name, version)
        file = self.project_dir / PROJECT_DIR / name / f"{prompt.version}.md"
        if file.exists() and not overwrite:
            message = f"The project has its own prompt {name!r} {prompt.version} already; --force replaces it."
            raise InvalidPipeline([Problem(code="file_exists", message=message, file=str(file))])
        write_atomic(file, lambda temporary: _put(temporary, prompt.text))
        return file


def _put(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _age(version: str) -> tuple[int, int, str]:
    """Order versions: words first, then v1, v2, … v10."""
    numbered = _NUMBERED.fullmatch(version)
    return (1, int(numbered[1]), "") if numbered else (0, 0, version)


def prompt_for(context: Context, name: str, version: str | None = None) -> Prompt:
    """Return the prompt that a stage uses: the one that its plan settled, else (outside of a run) the one in the files.

    Raises:
        PermanentError: there is none, or its file is none.
    """
    planned: Any = context.models.settings.get("prompts", {}).get(name)
    try:
        if planned is not None:
            return parse_prompt(planned["text"], name=name, version=planned["version"], origin="project")
        return PromptLibrary(context.project_dir).find(name, version)
    except InvalidPipeline as exc:
        first = exc.problems[0]
        raise PermanentError(str(first), code=first.code) from exc
