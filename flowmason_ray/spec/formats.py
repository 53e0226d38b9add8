"""Checks of the `format`s of JSON Schema (draft 2020-12, section 7.3), so that they are enforced and not only decoration.

The jsonschema library leaves several formats, `date-time` and `uri` among them, to further packages and silently accepts
everything when they are not installed. These are short enough to be written here, after the RFCs that define them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from datetime import date
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(
    r"(\d{2}):(\d{2}):(\d{2})(\.\d+)?(z|[+-]\d{2}:\d{2})",
    re.ASCII | re.IGNORECASE,
)
_DURATION = re.compile(
    r"P(\d+W|(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)",
    re.ASCII,
)
_URI_CHARACTERS = re.compile(r"([A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY = re.compile(r"([^@\[\]]*@)?(\[(?P<ip6>[0-9A-Fa-f:.]+)\]|[^\[\]:@]*)(:\d*)?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_EMAIL_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*|\"([^\"\\]|\\.)+\"")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_JSON_POINTER = re.compile(r"(/([^~/]|~[01])*)*")


def is_date(text: str) -> bool:
    """RFC 3339, full-date: `2024-02-29`."""
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_time(text: str) -> bool:
    """RFC 3339, full-time: `12:30:00Z`, `12:30:00.5+02:00`. The leap second is 23:59:60 in UTC."""
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    hour, minute, second = (int(match[i]) for i in (1, 2, 3))
    zone = match[5]
    shift = 0
    if zone not in "zZ":
        zone_hour, zone_minute = int(zone[1:3]), int(zone[4:6])
        if zone_hour > 23 or zone_minute > 59:
            return False
        shift = (zone_hour * 60 + zone_minute) * (1 if zone[0] == "+" else -1)
    if hour > 23 or minute > 59 or second > 60:
        return False
    return second < 60 or (hour * 60 + minute - shift) % 1440 == 1439


def is_date_time(text: str) -> bool:
    """RFC 3339, date-time: a date, `T`, a time with its offset."""
    return text[10:11] in ("T", "t") and is_date(text[:10]) and is_time(text[11:])


def is_duration(text: str) -> bool:
    """RFC 3339, appendix A: `P1Y2M3D`, `PT30M`, `P2W`."""
    return _DURATION.fullmatch(text) is not None


def is_uri(text: str) -> bool:
    """RFC 3986: a URI with its scheme."""
    return _SCHEME.match(text) is not None and is_uri_reference(text)


def is_uri_reference(text: str) -> bool:
    """RFC 3986: a URI, or a reference relative to one."""
    if not _URI_CHARACTERS.fullmatch(text) or text.count("#") > 1:
        return False
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text
    if not scheme and ":" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        return False
    if not rest.startswith("//"):
        return "[" not in rest and "]" not in rest
    authority = re.split(r"[/?#]", rest[2:], maxsplit=1)[0]
    match = _AUTHORITY.fullmatch(authority)
    beyond = rest[2 + len(authority) :]
    return match is not None and "[" not in beyond and "]" not in beyond and (not match["ip6"] or is_ipv6(match["ip6"]))


def is_hostname(text: str) -> bool:
    """RFC 1123, section 2.1: labels of letters, digits and hyphens."""
    return 0 < len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def is_email(text: str) -> bool:
    """RFC 5321, section 4.1.2: a mailbox whose domain is a host name or an address in brackets."""
    local, _, domain = text.rpartition("@")
    if not _EMAIL_LOCAL.fullmatch(local) or len(local) > 64:
        return False
    if domain.startswith("[") and domain.endswith("]"):
        inner = domain[1:-1]
        return is_ipv6(inner[5:]) if inner.startswith("IPv6:") else is_ipv4(inner)
    return is_hostname(domain)


def is_ipv4(text: str) -> bool:
    """RFC 2673, section 3.2: four decimal numbers."""
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def is_ipv6(text: str) -> bool:
    """RFC 4291, section 2.2; without a zone."""
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return "%" not in text


def is_uuid(text: str) -> bool:
    """RFC 4122: `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`."""
    return _UUID.fullmatch(text) is not None


def is_json_pointer(text: str) -> bool:
    """RFC 6901."""
    return _JSON_POINTER.fullmatch(text) is not None


def is_regex(text: str) -> bool:
    """Return whether it is a regular expression, as Python understands them."""
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # `[[` may mean something else one day
            re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


FORMATS: Mapping[str, Callable[[str], bool]] = {
    "date": is_date,
    "time": is_time,
    "date-time": is_date_time,
    "duration": is_duration,
    "uri": is_uri,
    "uri-reference": is_uri_reference,
    "hostname": is_hostname,
    "email": is_email,
    "ipv4": is_ipv4,
    "ipv6": is_ipv6,
    "uuid": is_uuid,
    "json-pointer": is_json_pointer,
    "regex": is_regex,
}
"""The formats that are enforced. Values that are not text have no format (JSON Schema, section 7.2.1)."""
