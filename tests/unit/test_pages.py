"""The pages for people: what they link to is there, and every command and option that they name exists."""

import re
import tomllib
from pathlib import Path

import click
import pytest

from tracksync.cli import main
from tracksync.cli.configfile import KEYS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "slurm/*", "deploy/*", "deploy/docs/*", "deploy/systemd/**/*", "tests/*/RESULTS.md")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
#: Options of other programs that stand on a line of their own, or behind a backquote.
COMMAND = re.compile(r"\btracksync ((?:-v )?[a-z]+)\b([^\n`|;&>#]*)")


def page(name):
    return (ROOT / name).read_text()


def anchors(text):
    """What GitHub calls the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def options():
    """The options of each command, with all their names."""
    context = click.Context(main)
    return {
        name: {word for parameter in main.get_command(context, name).params for word in parameter.opts} | {"--help"}
        for name in main.list_commands(context)
    }


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith(".md")])
def test_what_a_page_links_to_is_there(name):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page(name)):
        place = (ROOT / name).parent / target if target else ROOT / name
        assert place.exists(), target
        assert not anchor or anchor in anchors(place.read_text()), f"{target}#{anchor}"


def test_every_command_line_on_the_pages_is_one():
    known, seen = options(), set()
    for name in PAGES:
        lines = re.findall(r"`[^`\n]+`|^ {4,}.*$|^# .*$|^Exec.*$", page(name), re.MULTILINE)
        for command, rest in COMMAND.findall("\n".join(line.strip("` ") for line in lines)):
            if command not in known:
                continue  # a sentence about tracksync
            seen.add(command)
            for option in re.findall(r"(?<![\w-])(--?[A-Za-z][a-z-]*)", rest):
                assert option in known[command], f"{name}: tracksync {command} {option}"
    assert seen == known.keys()


def test_every_environment_name_on_the_pages_is_that_of_an_option():
    own = {"STORE", "SLURM", "DIRS"}  # of the job template and the unit
    wanted = {key.replace("-", "_").upper() for key in KEYS} | {"CONFIG", "PATH_MAP"}
    for name in PAGES:
        named = set(re.findall(r"\bTRACKSYNC_([A-Z_]+)\b", page(name)))
        assert named <= wanted | own, name


def test_the_settings_that_are_explained_are_those_that_a_file_may_hold():
    text = re.sub(r"^#(?! )", "", page("deploy/config.toml"), flags=re.MULTILINE)
    explained = tomllib.loads(text)
    assert explained.keys() - KEYS.keys() == {"experiments", "path-map", "store"}
