"""The page of what may go wrong: a row for each hint of the code; the causes are written by hand, in the page."""

import re

from hints import OPEN, collect, errors

HEAD = """\
# Trouble

What tracksync says, why, and what to do. It says a trouble in one line: what and where; what to do.
`…` stands for a path, a name, or words of the server. `tracksync status` says of each held run why it is held, and
`tracksync doctor` looks for what could be in the way before anything is sent.

The rows are taken from the code by `make docs`, and a test keeps them so; the causes are written by hand, here.
"""
SECTIONS = {
    "Nothing can be sent until it is mended": (
        "Exit code 3: the settings, the destination or the credentials are wrong.",
        ("ConfigError",),
    ),
    "A run is held": (
        "Exit code 5. The others go on; it is tried again when it changes, after a while, and with `push --retry`.",
        ("HeldError", "RefusedError"),
    ),
    "It comes right by itself": (
        "`watch` tries again; run `push` or `watch --once` again (75: the server is away, 4: another process has it).",
        (
            "UnreachableError",
            "SetBackError",
            "UncertainError",
            "NotSettledError",
            "GoneError",
            "RemovedError",
            "LeaseError",
        ),
    ),
    "What doctor finds": ("Lines of `tracksync doctor` that are not `ok`.", ("Finding",)),
}
#: Of an error whose class is in no section.
OTHERS = "Anything else"
TABLE = "| message | cause | what to do |\n| --- | --- | --- |"


def render(page):
    """The page, with the causes that ``page`` gives; a row that has none yet gets what its kind of error says."""
    causes = _causes(page)
    placed = {kind for _, kinds in SECTIONS.values() for kind in kinds}
    rest = tuple(kind for kind in errors() if kind not in placed)
    parts = [HEAD]
    for title, (text, kinds) in (SECTIONS | {OTHERS: ("Exit code 1.", rest)}).items():
        rows = [_row(hint, causes) for kind in kinds for hint in collect() if hint.kind == kind]
        parts += [f"## {title}\n\n{text}\n\n{TABLE}", *rows, ""]
    return "\n".join(parts)


def _row(hint, causes):
    said = "*the server's own words*" if hint.message == OPEN else _cell(hint.message)
    todo = "*said in the line itself*" if hint.hint == OPEN else _cell(hint.hint)
    cause = causes.get((said, todo)) or _cell(" ".join(errors().get(hint.kind, "as the line says").split()))
    return f"| {said} | {cause} | {todo} |"


def _causes(page):
    """The causes in a page, by message and hint."""
    rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in page.splitlines() if line.startswith("| ")]
    return {(row[0], row[2]): row[1] for row in rows if len(row) == 3}


def _cell(text):
    quoted = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([|*<\[\]])", r"\\\1", part) for part in quoted)
