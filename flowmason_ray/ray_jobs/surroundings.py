"""Which environment variables a run takes along to its coordinator: what its process would have read here, and nothing else.

They travel in the coordinator's arguments. Ray keeps those to start it again with, and shows them nowhere; a `runtime_env` would
stand in the dashboard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from flowmason_ray.connections import EnvironmentReference, SecretReference
from flowmason_ray.llm.choosing import choices_of, key_variables
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.stores.blobs import ACCESS_VARIABLES

BEGINNINGS = ("FLOWMASON_", "OTEL_", *ACCESS_VARIABLES)
"""How the variables begin that lead to stores and telemetry, and say how runs go."""
_LIBPQ_NAMES = (
    "HOST HOSTADDR PORT DATABASE USER PASSWORD PASSFILE REQUIREAUTH CHANNELBINDING SERVICE SERVICEFILE OPTIONS APPNAME SSLMODE "
    "REQUIRESSL SSLNEGOTIATION SSLCOMPRESSION SSLCERT SSLKEY SSLCERTMODE SSLROOTCERT SSLCRL SSLCRLDIR SSLSNI REQUIREPEER "
    "SSLMINPROTOCOLVERSION SSLMAXPROTOCOLVERSION GSSENCMODE KRBSRVNAME GSSLIB GSSDELEGATION CONNECT_TIMEOUT CLIENTENCODING "
    "TARGETSESSIONATTRS LOADBALANCEHOSTS MINPROTOCOLVERSION MAXPROTOCOLVERSION DATESTYLE TZ GEQO SYSCONFDIR LOCALEDIR"
)
LIBPQ = frozenset(f"PG{name}" for name in _LIBPQ_NAMES.split())
"""What PostgreSQL's client reads (PostgreSQL 18, chapter "Environment Variables" of libpq). Others begin with PG too, and are
nobody's business, such as a passphrase for PGP."""
BUILT_IN = frozenset({"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"})
"""What makes a provider that nobody has written down (`llm.choosing`)."""


def taken_along(settings: ProjectSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment goes along with a run of a project.

    Args:
        settings: The project's: what they name is what stages, models and connections read.
        environment: Of the process that hands the run over.
    """
    named = {*settings.env_allow, *settings.secrets, *BUILT_IN, *LIBPQ}
    named.update(key_variables(choices_of(settings, environment).providers))
    for connection in settings.reachable.values():
        named.update(_variables(connection))
    return {name: value for name, value in environment.items() if name in named or name.startswith(BEGINNINGS)}


def _variables(value: object) -> Iterator[str]:
    """Yield the environment variables that a connection refers to, wherever in it that is."""
    if isinstance(value, SecretReference):
        yield value.secret
    elif isinstance(value, EnvironmentReference):
        yield value.env
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from _variables(inner)
    elif isinstance(value, Mapping):
        for inner in value.values():  # pyright: ignore[reportUnknownVariableType]  # of any kind
            yield from _variables(inner)  # pyright: ignore[reportUnknownArgumentType]  # likewise
    elif isinstance(value, (list, tuple)):
        for inner in value:  # pyright: ignore[reportUnknownVariableType]  # of any kind
            yield from _variables(inner)  # pyright: ignore[reportUnknownArgumentType]  # likewise
