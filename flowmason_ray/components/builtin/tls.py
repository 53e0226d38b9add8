"""Whom connections with TLS trust, and how a certificate that nobody vouches for is told from a server that is away."""

from __future__ import annotations

import ssl
from typing import Any


def trust(verify: bool) -> ssl.SSLContext:
    """Return what a connection is made with; not `verify`: any certificate is taken."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def is_certificate(exc: BaseException | None) -> bool:
    """Tell whether an error, or what it came of, is a certificate that is not valid."""
    seen: Any = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
