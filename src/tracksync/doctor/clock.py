"""Whether this host's clock goes as the server's does: tokens and certificates begin and end by it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from tracksync.doctor.finding import Finding, Level
from tracksync.doctor.surroundings import insecure, shown

ABOUT = "clock"
#: Seconds by which they may differ; what makes tokens allows for about as much.
MOST_OFF = 60.0
TIMEOUT = 5.0


def clock(server: str) -> Iterator[Finding]:
    """Compare with the time that the server (or a proxy on the way) writes on its answers; no credentials are sent."""
    import requests

    parts = urlsplit(server)
    page = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], f"{parts.path}/version", "", ""))
    certificates: bool | str = not insecure(os.environ) and (os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True)
    began = time.time()
    try:
        with requests.get(
            page,
            timeout=TIMEOUT,
            stream=True,
            allow_redirects=False,
            verify=certificates,
            auth=lambda request: request,  # else a ~/.netrc would be used
        ) as answer:
            there = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (requests.RequestException, OSError, KeyError, ValueError, TypeError):
        return  # what is wrong with the server is said where it is looked at
    here = (began + time.time()) / 2
    off = there + 0.5 - here  # it writes whole seconds
    if abs(off) - (time.time() - began) / 2 > MOST_OFF:
        which = "ahead of" if off > 0 else "behind"
        text = f"the clock of {shown(server)} is {abs(off):,.0f} s {which} this host's"
        yield Finding(Level.WARNING, ABOUT, text, "have it set (chronyc tracking): tokens may be taken for expired")
    else:
        yield Finding(Level.OK, ABOUT, f"this host's goes as that of {shown(server)} does, to a second or so")


def certificates(server: str) -> Iterator[Finding]:
    """The files with certificates of authorities that the environment names, for a server by https."""
    if urlsplit(server).scheme != "https":
        return
    if insecure(os.environ):
        hint = "name the authority's certificate in MLFLOW_TRACKING_SERVER_CERT_PATH instead"
        text = f"MLFLOW_TRACKING_INSECURE_TLS: whoever answers in the place of {shown(server)} is believed"
        yield Finding(Level.WARNING, "certificates", text, hint)
        return
    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    name = next((name for name in names if os.environ.get(name)), None)
    if name is None:
        yield Finding(Level.OK, "certificates", "those that Python brings (certifi); your own: REQUESTS_CA_BUNDLE")
        return
    path = Path(os.environ[name])
    wrong = _unusable(path)
    if wrong:
        hint = f"name a file of certificates in PEM in {name}, or unset it"
        yield Finding(Level.FAILED, "certificates", f"{name} names no certificates: {path}: {wrong}", hint)
    else:
        yield Finding(Level.OK, "certificates", f"of the authorities in {path} ({name})")


def _unusable(path: Path) -> str:
    """Why a file, or a directory of such files, holds no certificates; empty when it does."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if path.is_dir():
            return ""  # OpenSSL looks into it when it needs one
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "it holds no certificate in PEM"
    except OSError as error:
        return error.strerror or str(error)
    return ""
