"""What pfmap itself asks web servers, in a way that can be interrupted, as GDAL's cannot be."""

import base64
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from pfmap.core.errors import PfmapError, SourceError
from pfmap.version import __version__

AGENT = f"pfmap/{__version__}"
"""By which servers know who asks."""
_PATIENCE = 20.0  # seconds


@contextmanager
def asked(
    address: str, shown: str, method: str = "GET", kind: type[PfmapError] = SourceError
) -> Iterator[Any]:
    """Give a server's answer; of errors a `urllib.error.HTTPError` is one, all else is of `kind`.

    `shown` is the address without secrets. User and password go to its server alone, wherever that leads.
    """
    try:
        parts = urlsplit(address)
        user, _, host = parts.netloc.rpartition("@")
        url = parts._replace(netloc=host).geturl()
        request = urllib.request.Request(url, method=method, headers={"User-Agent": AGENT})
        if user:
            token = base64.b64encode(unquote(user).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        raise
    except PfmapError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise kind(
            f"{shown} cannot be opened (the server does not answer: {why}): check the address and the network"
        ) from error
