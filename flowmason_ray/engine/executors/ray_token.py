"""The token of an embedded Ray cluster, set before anything imports Ray.

Ray reads how to authenticate once, when it is imported (2.60: setting it later leaves client and server at odds). So this must not
import it, nor lie in a module that does.
"""

from __future__ import annotations

import os
import secrets
import sys


def protect(address: str | None) -> None:
    """Have a cluster that this process is going to start refuse everybody who does not know a token made for it.

    Nothing is changed when somebody else has decided: Ray is imported already, `RAY_AUTH_MODE` or `RAY_ADDRESS` is set, or an
    address is given, whose cluster has a token of its own, or none.
    """
    if (
        address in (None, "local")
        and not {"RAY_AUTH_MODE", "RAY_ADDRESS"} & os.environ.keys()
        and "ray" not in sys.modules
    ):
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
