"""Which addresses a pipeline may reach: public ones, and what the project allows by name or range.

A pipeline is data, and its URLs may come from further data. So a host is resolved once, every address that it resolves to
is judged, and the connection is made to a judged address. That one rule covers odd spellings (decimal, octal, hex,
shortened: the resolver turns them into addresses), names that point inside, redirects (each hop is judged) and DNS
rebinding (there is no second look-up).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from flowmason_ray.errors import PermanentError, TemporaryError

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address behind a translator."""
_NEVER: Sequence[IPv4Network | IPv6Network] = tuple(
    ip_network(each)
    for each in (
        "168.63.129.16/32",  # Azure's host, which hands out certificates and settings to its machines
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "64:ff9b:1::/48",
        "100::/64",
        "2001:2::/48",
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
    )
)
"""Addresses that some versions of Python's tables call global: what is judged must not depend on them. All but the first are from
IANA's registries of special-purpose addresses (2025)."""


def is_public(address: Address) -> bool:
    """Tell whether `address` is one of the public internet: no loopback, private, link-local (metadata services), shared,
    reserved or multicast address, nor an IPv6 form that carries such an IPv4 address.
    """
    if isinstance(address, IPv6Address):
        carried = _carried(address)
        if carried is not None:
            return is_public(carried)
        if address.is_site_local:
            return False
    if any(address.version == network.version and address in network for network in _NEVER):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or int(address) >> 32 == 0:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def is_allowed(host: str, port: int, address: Address, allow_hosts: Sequence[str]) -> bool:
    """Tell whether the project's list (`name`, `name:port`, an address or a CIDR range) lets this address be reached."""
    name = host.lower().rstrip(".")
    plain = address.ipv4_mapped if isinstance(address, IPv6Address) and address.ipv4_mapped else address
    for entry in (e.strip().lower() for e in allow_hosts):
        if entry in (name, f"{name}:{port}", f"[{name}]", f"[{name}]:{port}"):
            return True
        try:
            network = ip_network(entry, strict=False)
        except ValueError:
            continue
        if plain.version == network.version and plain in network:
            return True
    return False


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of `host`, in the resolver's order.

    Raises:
        TemporaryError: the name cannot be resolved now (`http_connect`).
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise TemporaryError(f"The host {host!r} cannot be resolved: {exc}.", code="http_connect") from exc
    # A link-local address may carry a zone ("fe80::1%eth0"), which says nothing about what it is.
    return list(dict.fromkeys(ip_address(str(info[4][0]).partition("%")[0]) for info in found))


async def judged_addresses(host: str, port: int, allow_hosts: Sequence[str]) -> Sequence[Address]:
    """Return the addresses of `host` when each of them may be reached.

    Raises:
        PermanentError: one of them may not (`http_blocked`).
        TemporaryError: see `resolve`.
    """
    addresses = await resolve(host, port)
    for address in addresses:
        if not is_public(address) and not is_allowed(host, port, address, allow_hosts):
            raise PermanentError(
                f"The host {host!r} is {address}, which is not a public address. "
                f"If pipelines of this project may reach it, add {f'{host}:{port}'!r} to 'http.allow_hosts' in flowmason.json.",
                code="http_blocked",
            )
    return addresses
