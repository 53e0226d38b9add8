"""Connections: the servers that a project's pipelines use, under a name, in `flowmason.json`.

    "connections": {
      "shop": {"type": "postgres", "url": "postgresql://app@db.internal/shop", "password": {"secret": "SHOP_PASSWORD"}}
    }

A stage says the name (`"connection": "shop"`) and nothing else: a pipeline is data, and data does not choose which servers
are reached with whose password. What is secret is never written into the file; `{"secret": NAME}` names the environment
variable that holds it. It is read once, where the run starts, travels with the run, and is masked wherever the run leaves
traces, like any other secret of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flowmason_ray.errors import PermanentError, nearest

PREFIX = "$"
"""Put before the names of connections' secrets among those of a run, so that no template can name them."""


class SecretReference(BaseModel):
    """`{"secret": NAME}`: the value of an environment variable, masked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret: str = Field(min_length=1, description="The environment variable.")


class EnvironmentReference(BaseModel):
    """`{"env": NAME}`: the value of an environment variable, not masked, such as a host's name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str = Field(min_length=1, description="The environment variable.")


def _no_literal(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError('a secret is not written down here: write {"secret": "NAME_OF_AN_ENVIRONMENT_VARIABLE"}')
    return value


_ADVICE = 'give "password": {"secret": "NAME_OF_AN_ENVIRONMENT_VARIABLE"}, or let the whole URL be a secret'


def no_password(value: Any, *, advice: str = _ADVICE) -> Any:
    """Return a URL, unless it is written down with a password in it.

    Args:
        value: What is written.
        advice: What to write instead, where it stands.

    Raises:
        ValueError: it is.
    """
    if isinstance(value, str):
        try:
            password = urlsplit(value).password
        except ValueError:
            raise ValueError("it is no URL") from None  # the reason may quote the password
        if password:
            raise ValueError(f"a password is not written into a URL: {advice}")
    return value


Text = str | SecretReference | EnvironmentReference
"""A text, or where it is found."""
Url = Annotated[Text, AfterValidator(no_password)]
"""A URL; one that holds a password is a secret as a whole."""
Hidden = Annotated[Text, AfterValidator(_no_literal)]
"""What is always secret. In a resolved connection it is a text."""


class Connection(BaseModel):
    """What all connections have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: ClassVar[frozenset[str]] = frozenset({"password"})
    """Fields that are secret whatever they refer to."""


class SqlConnection(Connection):
    """A database that SQLAlchemy knows: SQLite, PostgreSQL, and others whose driver is installed."""

    type: Literal["sql"] = Field(description="The kind of server.")
    url: Url = Field(
        description="SQLAlchemy's URL. A SQLite file is relative to the project: `sqlite:///data/shop.db`."
    )
    password: Hidden | None = Field(default=None, description="The password, if the URL does not hold it.")


class PostgresConnection(Connection):
    """A PostgreSQL database."""

    type: Literal["postgres"] = Field(description="The kind of server.")
    url: Url = Field(description="`postgresql://user@host:port/database`, with libpq's options behind `?`.")
    password: Hidden | None = Field(default=None, description="The password, if the URL does not hold it.")


class RedisConnection(Connection):
    """A Redis server, or one that speaks its protocol (Valkey)."""

    type: Literal["redis"] = Field(description="The kind of server.")
    url: Url = Field(description="`redis://host:port/database`, or `rediss://…` for TLS.")
    username: Text | None = Field(default=None, description="The user, for servers with access lists.")
    password: Hidden | None = Field(default=None, description="The password.")


class AmqpConnection(Connection):
    """A broker that speaks AMQP 0-9-1, such as RabbitMQ."""

    type: Literal["amqp"] = Field(description="The kind of server.")
    url: Url = Field(
        description="`amqp://host:port/virtual-host`, or `amqps://…` for TLS. Without a virtual host: `/`."
    )
    username: Text | None = Field(default=None, description="The user; default: the URL's, else `guest`.")
    password: Hidden | None = Field(default=None, description="The password.")
    verify: bool = Field(default=True, description="With TLS: whether the server's certificate must be valid.")


class S3Connection(Connection):
    """S3, or a server that speaks its protocol. Without keys boto's own chain finds them (profiles, roles)."""

    hidden = frozenset({"secret_access_key", "session_token"})
    type: Literal["s3"] = Field(description="The kind of server.")
    endpoint_url: Text | None = Field(default=None, description="Where, if it is not Amazon's.")
    region: Text | None = Field(default=None, description="The region.")
    bucket: Text | None = Field(default=None, description="The bucket of stages that name none.")
    access_key_id: Text | None = Field(default=None, description="The key's id.")
    secret_access_key: Hidden | None = Field(default=None, description="The key.")
    session_token: Hidden | None = Field(default=None, description="The token of temporary keys.")
    path_style: bool = Field(
        default=False, description="Whether the bucket stands in the path and not in the host's name."
    )


class SmtpConnection(Connection):
    """A mail server that takes mail by SMTP."""

    type: Literal["smtp"] = Field(description="The kind of server.")
    host: Text = Field(description="The host.")
    port: int | None = Field(
        default=None, ge=1, le=65535, description="The port; default: 587, with tls 'implicit' 465, with 'none' 25."
    )
    tls: Literal["starttls", "implicit", "none"] = Field(
        default="starttls", description="TLS after a greeting, from the first byte, or not at all."
    )
    verify: bool = Field(default=True, description="Whether the server's certificate must be valid.")
    username: Text | None = Field(default=None, description="The user; without one nobody logs in.")
    password: Hidden | None = Field(default=None, description="The password.")
    sender: Text | None = Field(default=None, description="The address that mail comes from, if a stage names none.")


class WebhookConnection(Connection):
    """Somebody who is told of things by HTTP."""

    hidden = frozenset({"secret"})
    type: Literal["webhook"] = Field(description="The kind of server.")
    url: Url = Field(description="An http or https URL.")
    secret: Hidden | None = Field(default=None, description="The key with which requests are signed.")
    headers: dict[str, Text] = Field(default={}, description="Headers to send.")


AnyConnection = Annotated[
    SqlConnection
    | PostgresConnection
    | RedisConnection
    | AmqpConnection
    | S3Connection
    | SmtpConnection
    | WebhookConnection,
    Field(discriminator="type"),
]
CONNECTION_TYPES: Mapping[str, type[Connection]] = {
    "sql": SqlConnection,
    "postgres": PostgresConnection,
    "redis": RedisConnection,
    "amqp": AmqpConnection,
    "s3": S3Connection,
    "smtp": SmtpConnection,
    "webhook": WebhookConnection,
}
C = TypeVar("C", bound=Connection)


class McpServer(Connection):
    """A server of the Model Context Protocol: a program that is started, or an address."""

    hidden = frozenset()
    command: str | None = Field(
        default=None, description="The program to start; it speaks on its standard input and output."
    )
    args: list[str] = Field(default=[], description="Its arguments.")
    env: dict[str, Text] = Field(
        default={},
        description='Its environment, beside PATH, HOME and a few others: texts, `{"env": NAME}` or `{"secret": NAME}`.',
    )
    cwd: str = Field(default=".", description="The directory that it is started in, relative to the project.")
    url: Text | None = Field(default=None, description="Or an address (streamable HTTP): `https://host/mcp`.")
    headers: dict[str, Text] = Field(
        default={}, description='Headers to send; those that prove who we are must be `{"secret": NAME}`.'
    )
    timeout_s: float = Field(
        default=60, gt=0, le=86_400, description="How long connecting and one call may take together, in seconds."
    )

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either 'command' or 'url'")
        if self.url is not None and (self.args or self.env):
            raise ValueError("'args' and 'env' belong to 'command'")
        if self.command is not None and self.headers:
            raise ValueError("'headers' belong to 'url'")
        if isinstance(self.url, str) and not self.url.startswith(("http://", "https://")):
            raise ValueError("'url' must start with http:// or https://")
        no_password(
            self.url,
            advice='let the whole URL be a secret, "url": {"secret": "NAME_OF_AN_ENVIRONMENT_VARIABLE"}, or leave it out and give a '
            'header, "headers": {"Authorization": {"secret": "NAME_OF_AN_ENVIRONMENT_VARIABLE"}}',
        )
        literal = next((n for n, v in self.headers.items() if n.lower() in PROVING and isinstance(v, str)), None)
        if literal is not None:
            raise ValueError(f'header {literal!r} is a secret: write {{"secret": "NAME_OF_AN_ENVIRONMENT_VARIABLE"}}')
        return self


PROVING = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})
"""HTTP headers that prove who we are."""
MCP_PREFIX = "mcp:"
"""Put before the names of MCP servers where they stand beside connections."""


def secrets_of(connections: Mapping[str, Connection], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets that connections name and the environment holds, by the names that they have in a run.

    The password inside a secret URL is a secret by itself: servers and drivers repeat it without the rest.
    """
    found: dict[str, str] = {}
    for connection in connections.values():
        for value, hidden in _references(connection):
            if isinstance(value, SecretReference):
                name = value.secret
            elif hidden:
                name = value.env
            else:
                continue
            if name in environment:
                found[PREFIX + name] = environment[name]
                found |= {f"{PREFIX}{name}.{i}": part for i, part in enumerate(_password_in(environment[name]))}
    return found


def with_environment(connections: Mapping[str, C], environment: Mapping[str, str]) -> dict[str, C]:
    """Return connections in which `{"env": NAME}` is replaced by the value, where it is set and not secret."""

    def put(value: Any, hidden: bool) -> Any:
        if isinstance(value, EnvironmentReference) and not hidden:
            return environment.get(value.env, value)
        return value

    return {name: _mapped(connection, put) for name, connection in connections.items()}


def resolved(
    connections: Mapping[str, Connection],
    name: str,
    secrets: Mapping[str, str],
    *,
    wanted: type[C] | tuple[type[C], ...],
) -> C:
    """Return the connection `name` with every reference replaced by its text.

    Args:
        connections: Those of the project.
        name: The one that a stage names.
        secrets: The run's secrets, revealed (`secrets_of`).
        wanted: What kind of server the component speaks to.

    Raises:
        PermanentError: `unknown_connection`, `connection_type`, or `missing_secret` for a variable that is not set.
    """
    found = find_connection(
        connections, name, cast("tuple[type[C], ...]", wanted if isinstance(wanted, tuple) else (wanted,))
    )

    def put(value: Any, hidden: bool) -> Any:
        if isinstance(value, str):
            return value
        variable = value.secret if isinstance(value, SecretReference) else value.env
        if PREFIX + variable not in secrets:
            raise PermanentError(
                f"The connection {name!r} needs the environment variable {variable!r}, which is not set where the run started.",
                code="missing_secret",
            )
        return secrets[PREFIX + variable]

    return _mapped(found, put)


def find_connection(connections: Mapping[str, Connection], name: str, kinds: tuple[type[C], ...]) -> C:
    """Return the connection `name` as it is written, if it is of one of these kinds.

    Raises:
        PermanentError: `unknown_connection`, `connection_type`.
    """
    found = connections.get(name)
    if found is None:
        fitting = [n for n, c in connections.items() if isinstance(c, kinds)]
        near = nearest(name, fitting)
        there = f"There are {', '.join(map(repr, sorted(fitting)))} of that kind." if fitting else "There is none yet."
        raise PermanentError(
            f"flowmason.json has no connection {name!r}.{f' Did you mean {near!r}?' if near else ''} {there} "
            f"Add it under 'connections' with the type {' or '.join(repr(_type_word(k)) for k in kinds)}.",
            code="unknown_connection",
        )
    if not isinstance(found, kinds):
        raise PermanentError(
            f"The connection {name!r} is of type {_type_word(type(found))!r}; "
            f"this component takes {' or '.join(repr(_type_word(k)) for k in kinds)}.",
            code="connection_type",
        )

    return found


def find_server(servers: Mapping[str, McpServer], name: str) -> McpServer:
    """Return the MCP server `name` as it is written.

    Raises:
        PermanentError: `unknown_mcp_server`.
    """
    found = servers.get(name)
    if found is None:
        near = nearest(name, servers)
        there = f"There are {', '.join(map(repr, sorted(servers)))}." if servers else "There is none yet."
        raise PermanentError(
            f"flowmason.json has no MCP server {name!r}.{f' Did you mean {near!r}?' if near else ''} {there} "
            "Add it under 'mcp_servers' with 'command' or 'url'.",
            code="unknown_mcp_server",
        )
    return found


def _type_word(kind: type[Connection]) -> str:
    return next(word for word, each in CONNECTION_TYPES.items() if each is kind)


def _references(connection: Connection) -> Iterator[tuple[SecretReference | EnvironmentReference, bool]]:
    for field in type(connection).model_fields:
        value = getattr(connection, field)
        hidden = field in connection.hidden
        for each in cast("dict[str, Any]", value).values() if isinstance(value, dict) else (value,):
            if isinstance(each, (SecretReference, EnvironmentReference)):
                yield each, hidden


def _mapped(connection: C, put: Any) -> C:
    """Return a copy with every text and reference replaced by what `put(value, hidden)` returns."""
    changed: dict[str, Any] = {}
    for field in type(connection).model_fields:
        value = getattr(connection, field)
        hidden = field in connection.hidden
        if isinstance(value, dict):
            changed[field] = {k: put(v, hidden) for k, v in cast("dict[str, Any]", value).items()}
        elif isinstance(value, (SecretReference, EnvironmentReference)):
            changed[field] = put(value, hidden)
    return connection.model_copy(update=changed)


def _password_in(value: str) -> list[str]:
    """Return the password that a URL holds, as it is written and as it is meant."""
    try:
        password = urlsplit(value).password
    except ValueError:
        return []
    return sorted({password, unquote(password)}) if password else []
