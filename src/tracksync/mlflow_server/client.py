"""MLflow's own client layer, loaded when the first request goes out: it costs a second or two, and 170 MB."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow.utils.rest_utils import MlflowHostCreds

#: What only Databricks has. MLflow's client looks for it three times a request, along the whole of ``sys.path``.
_NOT_HERE = "dbruntime"


@cache
def load() -> ModuleType:
    """The module that sends requests. Whatever the import raises comes through, and the next call tries it again."""
    from mlflow.utils import rest_utils

    if _NOT_HERE not in sys.modules and importlib.util.find_spec(_NOT_HERE) is None:
        # Python's own way of saying so: else half of the time that a request takes here goes into the search.
        sys.modules[_NOT_HERE] = None  # type: ignore[assignment]
    return cast(ModuleType, rest_utils)


def host_credentials(address: str) -> MlflowHostCreds:
    """What MLflow's variables, files and plug-ins say for this server."""
    try:
        from mlflow.utils.credentials import get_default_host_creds
    except ImportError:  # MLflow < 2.10
        from mlflow.tracking._tracking_service.utils import _get_default_host_creds as get_default_host_creds
    return get_default_host_creds(address)


def known_proxies(address: str) -> dict[str, str] | None:
    """What requests is told of proxies: to look for none where none is set; None where it has to look.

    It would go through the whole environment twice with every request: a fifth of the CPU time that one takes.
    """
    from urllib.request import getproxies

    host = urlsplit(address).hostname or ""
    if getproxies().keys() - {"no"} or not host.isascii() or "%" in host:  # such a host requests spells otherwise
        return None
    return {"no_proxy": host}
