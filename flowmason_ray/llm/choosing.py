"""Which provider and model a stage means: stage, then pipeline, then project, then environment.

Two providers exist without being written down, when the environment has their key: `anthropic` (ANTHROPIC_API_KEY) and
`openai` (OPENAI_API_KEY, or OPENAI_BASE_URL for a server that speaks OpenAI's API). So one environment variable is enough to run a
pipeline that names no provider. FLOWMASON_PROVIDER, FLOWMASON_MODEL and FLOWMASON_EMBEDDING_MODEL say which one is meant where nothing
else does; a server of one's own has no default, so OPENAI_BASE_URL needs the last two.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flowmason_ray.errors import InvalidCall, InvalidPipeline, PermanentError, Problem, nearest
from flowmason_ray.settings import KeySource, ProjectSettings, ProviderSettings

ANTHROPIC_MODEL = "claude-sonnet-5-5"
"""Asked of the built-in `anthropic` when nobody names a model: the middle of its range. From the SDK's list, 2.12.0."""
OPENAI_MODEL = "gpt-5.4-mini"
"""Asked of the built-in `openai`, likewise (SDK 3.54.0)."""
OPENAI_EMBEDDINGS = "text-embedding-3-small"

_OWN_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai_compatible": "OPENAI_API_KEY"}

HOW_TO = (
    "Set ANTHROPIC_API_KEY, or OPENAI_API_KEY, or OPENAI_BASE_URL and FLOWMASON_MODEL for another server that speaks OpenAI's API, "
    "or describe one under 'providers' in flowmason.json and name it in 'llm_settings'. 'fm providers' lists what there is."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """The providers that there are, and what holds where nothing is said."""

    providers: Mapping[str, ProviderSettings]
    defaults: Mapping[str, Any]
    """The project's `llm_settings`, and what the environment says."""
    built_in: frozenset[str] = frozenset()
    unusable: Mapping[str, str] = field(default_factory=dict[str, str])
    """Built-in providers that the environment describes wrongly, and what is wrong: nobody hears of it who does not mean them."""

    def settle(self, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the settings that hold (`engine.stage_settings.ModelChoice`): the layers over the defaults, the weaker first.

        A layer that names another provider does not inherit the model: that is another provider's.

        Raises:
            InvalidPipeline: a provider is named that does not exist.
            InvalidCall: the environment describes the one that is meant wrongly.
        """
        made: dict[str, Any] = {}
        for layer in (self.defaults, *layers):
            if "provider" in layer and layer["provider"] != made.get("provider"):
                made.pop("model", None)
            made.update(layer)
        name = made.get("provider") or self._only()
        if name is None:
            return made
        if name in self.unusable:
            raise InvalidCall(self.unusable[name])
        provider = self.providers.get(name)
        if provider is None:
            raise InvalidPipeline([self._unknown(name)])
        made["provider"] = name
        if "model" not in made and (default := default_model(provider)) is not None:
            made["model"] = default
        if provider.embedding_model is not None:
            made["embedding_model"] = provider.embedding_model
        return made

    def _only(self) -> str | None:
        """Return the provider that is meant when none is named: the only one, the project's before the environment's."""
        own = [name for name in self.providers if name not in self.built_in]
        if len(own) == 1:
            return own[0]
        if own:
            return None
        return next((name for name in ("anthropic", "openai") if name in self.providers or name in self.unusable), None)

    def provider(self, name: str | None) -> tuple[str, ProviderSettings]:
        """Return the provider of that name.

        Raises:
            PermanentError: there is none, or none is named and it is not clear which is meant.
        """
        if name is None:
            if self.providers:
                message = f"There are several model providers ({', '.join(sorted(self.providers))}), and nothing says which is meant."
                hint = "Name one in 'llm_settings' of the stage, the pipeline's 'defaults' or flowmason.json, or in FLOWMASON_PROVIDER."
                raise PermanentError(f"{message} {hint}", code="provider_not_configured")
            raise PermanentError(f"No model provider is configured. {HOW_TO}", code="provider_not_configured")
        if name in self.unusable:
            raise PermanentError(self.unusable[name], code="provider_not_configured")
        found = self.providers.get(name)
        if found is None:
            problem = self._unknown(name)
            raise PermanentError(f"{problem.message} {problem.hint or ''}".strip(), code=problem.code)
        return name, found

    def _unknown(self, name: str) -> Problem:
        there = ", ".join(sorted(self.providers)) or "none"
        return Problem(
            code="unknown_provider",
            message=f"There is no model provider {name!r}; there is: {there}.",
            path="/provider",
            found=name,
            nearest=nearest(name, self.providers),
            hint=HOW_TO if not self.providers else "Describe it under 'providers' in flowmason.json.",
        )


def default_model(provider: ProviderSettings) -> str | None:
    """Return the model that is asked when nobody names one; a file that is run here is its own name."""
    return provider.default_model or provider.model_path


def own_model(provider: ProviderSettings) -> str | None:
    """Return the model that is run here, for types that run one: its file or directory, or its name; else None."""
    if provider.type == "vllm":
        return provider.model_path or provider.default_model or provider.embedding_model
    return provider.model_path if provider.type == "llama_cpp" else None


def choices_of(settings: ProjectSettings, environment: Mapping[str, str]) -> Choices:
    """Return what a project and the environment offer."""
    unusable = {name: wrong for name, wrong in _wrong_addresses(environment) if name not in settings.providers}
    built_in = _built_in(environment, without=unusable.keys() | settings.providers.keys())
    said = settings.llm_settings.model_dump(exclude_none=True)
    for name, variable in (("provider", "FLOWMASON_PROVIDER"), ("model", "FLOWMASON_MODEL")):
        # The environment's model is not for a provider that the project names.
        if (
            (value := environment.get(variable))
            and name not in said
            and not (name == "model" and settings.llm_settings.provider)
        ):
            said[name] = value
    return Choices(
        providers={**built_in, **settings.providers},
        defaults=said,
        built_in=frozenset(built_in),
        unusable=unusable,
    )


def _wrong_addresses(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield which built-in provider has an address that cannot be, and what is wrong; never the address, which may hold a password."""
    for name, variable, wanted in (
        ("anthropic", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"),
        ("openai", "OPENAI_BASE_URL", "OPENAI_BASE_URL"),
    ):
        address = environment.get(variable)
        if address and environment.get(wanted) and (wrong := _wrong(address)):
            key = f"{name.upper()}_API_KEY"
            yield name, f"The environment variable {variable} {wrong} Write 'https://host/path'; a key goes into {key}."


def _wrong(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # reading a port checks it
    except ValueError:
        return "is not a URL."
    if parts.username is not None or parts.password is not None:
        return "holds a user or a password."
    if parts.scheme not in ("http", "https") or not host:
        return "is not an address that starts with http:// or https:// and names a host."
    return None


def _built_in(environment: Mapping[str, str], *, without: Container[str]) -> dict[str, ProviderSettings]:
    made: dict[str, ProviderSettings] = {}
    if environment.get("ANTHROPIC_API_KEY") and "anthropic" not in without:
        made["anthropic"] = ProviderSettings(
            type="anthropic",
            base_url=environment.get("ANTHROPIC_BASE_URL") or None,
            api_key=KeySource(env="ANTHROPIC_API_KEY"),
            default_model=environment.get("FLOWMASON_MODEL") or ANTHROPIC_MODEL,
        )
    address = environment.get("OPENAI_BASE_URL") or None
    if (environment.get("OPENAI_API_KEY") or address) and "openai" not in without:
        made["openai"] = ProviderSettings(
            type="openai_compatible",
            base_url=address,
            api_key=KeySource(env="OPENAI_API_KEY") if environment.get("OPENAI_API_KEY") else None,
            default_model=environment.get("FLOWMASON_MODEL") or (None if address else OPENAI_MODEL),
            embedding_model=environment.get("FLOWMASON_EMBEDDING_MODEL") or (None if address else OPENAI_EMBEDDINGS),
        )
    return made


def key_variable(provider: ProviderSettings) -> str | None:
    """Return the environment variable that holds a provider's key; None: it is asked without one.

    The companies' own keys are sent to the companies' own addresses only, unless the settings say otherwise.
    """
    if provider.api_key is not None:
        return provider.api_key.env or provider.api_key.secret
    return _OWN_KEYS.get(provider.type) if provider.base_url is None else None


def key_variables(providers: Mapping[str, ProviderSettings]) -> list[str]:
    """Return the environment variables that hold the providers' keys."""
    return sorted({name for each in providers.values() if (name := key_variable(each)) is not None})
