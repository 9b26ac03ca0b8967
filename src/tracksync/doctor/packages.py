"""The packages that tracksync works with: there, and new enough."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from tracksync.doctor.finding import Finding, Level

ABOUT = "packages"
#: What stands for a package, with fewer of its own.
_INSTEAD = {"mlflow": "mlflow-skinny"}


def packages() -> Iterator[Finding]:
    """Compare what is installed with what tracksync asks for."""
    fitting = []
    for text in requires("tracksync") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        name, found = _found(wanted.name)
        if found is None:
            yield Finding(
                Level.FAILED, ABOUT, f"{wanted.name} is not installed", f"run: pip install '{name}{wanted.specifier}'"
            )
        elif not wanted.specifier.contains(found, prereleases=True):
            hint = f"run: pip install '{name}{wanted.specifier}'"
            yield Finding(Level.FAILED, ABOUT, f"{name} {found} does not fit: {wanted.specifier} is needed", hint)
        else:
            fitting.append(f"{name} {found}")
    if fitting:
        yield Finding(Level.OK, ABOUT, ", ".join(fitting))


def _found(name: str) -> tuple[str, str | None]:
    """The name and version of an installed package, or of what stands for it; None when neither is there."""
    for each in filter(None, (name, _INSTEAD.get(name))):
        try:
            return each, version(each)
        except PackageNotFoundError:
            continue
    return _INSTEAD.get(name, name), None
