"""What a comparison found, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracksync.model import RunRef
from tracksync.shape import REDACTED

#: Characters of a value that are shown.
SHOWN = 60


def shown(value: object) -> str:
    """A value as a person is told of it."""
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def hushed(source: object, server: object) -> str:
    """A value of the server's, unless the source's is not to be told: it may be the very one."""
    return "another value" if source == REDACTED else shown(server)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same on both sides, in words.

    ``mend`` names what the replay has to send again ("metric:loss", "end", ...), or "own" for a tag of tracksync's own;
    empty where nothing can be done from here.
    """

    item: str
    source: str
    server: str
    mend: str = ""


@dataclass(slots=True)
class Side:
    """How much one side holds of a run, without what tracksync itself adds. ``status`` is empty where it has no run."""

    experiment: str = ""
    status: str = ""
    params: int = 0
    tags: int = 0
    keys: int = 0
    points: int = 0
    datasets: int = 0
    files: int = 0
    #: of the files
    bytes: int = 0
    #: logged models that the run made
    models: int = 0


@dataclass(slots=True, kw_only=True)
class Finding:
    """What the comparison of one run found.

    ``changed_there`` is what people made of the run on the server: no differences, and left alone. ``mended`` counts
    the differences that a repair has done away with.
    """

    ref: RunRef
    name: str = ""
    run_id: str | None = None
    url: str | None = None
    differences: list[Difference] = field(default_factory=list)
    changed_there: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    points: int = 0
    files: int = 0
    mended: int = 0
    #: tags of tracksync's own that were lost there, with their values
    own: dict[str, str] = field(default_factory=dict)
    here: Side = field(default_factory=Side)
    there: Side = field(default_factory=Side)
    #: the run was delivered once and is not on the server any more
    gone: bool = False

    @property
    def mend(self) -> frozenset[str]:
        """What the replay has to send again."""
        return frozenset(d.mend for d in self.differences if d.mend)


@dataclass(slots=True, kw_only=True)
class Audit:
    """The outcome of a verify."""

    destination: str
    findings: list[Finding] = field(default_factory=list)
    #: one line each: what concerns no single run
    notes: list[str] = field(default_factory=list)
    #: one line for each place of which the runs could not be listed just now
    unlisted: list[str] = field(default_factory=list)
    #: runs that are deleted at the source, and that nobody asked for
    deleted: int = 0

    @property
    def different(self) -> list[Finding]:
        """The runs that are not the same on both sides."""
        return [finding for finding in self.findings if finding.differences]

    @property
    def exit_code(self) -> int:
        """0 everything is the same, 6 something is not, or could not be looked at."""
        return 6 if self.different or self.unlisted else 0
