"""The pages for people: what they link to is there, and every command and option that they name exists."""

import re
import tomllib
from pathlib import Path

import click
import pytest

import hints
import pages
import reference
import trouble
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

#: Options without an environment name: where runs are sent must not decide which of them `status` shows.
NAMELESS = {("status", "to")}


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


@pytest.mark.parametrize("path", pages.made(), ids=lambda path: path.name)
def test_what_is_made_from_the_code_is_as_the_code_is(path):
    assert path.read_text() == pages.made()[path], "run `make docs`, and fill in what it adds"


@pytest.mark.parametrize("name", reference.commands())
def test_the_help_of_a_command_is_complete(name):
    command = reference.commands()[name]
    assert command.help
    assert command.get_short_help_str()
    assert "Examples:" in (command.epilog or "")
    assert f"tracksync {name}" in command.epilog
    assert not reference.undescribed(command)
    assert [option for option in reference.unnamed(command) if (name, option) not in NAMELESS] == []


def test_the_reference_names_all_options_and_nothing_else():
    text = (pages.DOCS / "cli.md").read_text()
    for name, command in reference.commands().items():
        section = text.partition(f"## tracksync {name}\n")[2].partition("\n## ")[0]
        named = set(re.findall(r"(?<=[| ]`)(--?[a-z-]+)", section))
        assert named == {word for option in reference.options(command) for word in option.opts}, name


def test_a_hint_that_is_new_gets_a_row_and_one_that_is_gone_loses_it():
    page = (pages.DOCS / "troubleshooting.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| no destination |"))
    cause = row.split(" | ")[1]
    assert trouble.render(page.replace(row, "| no such words | a cause | a hint |")).count("| no destination |") == 2
    assert "no such words" not in trouble.render(page.replace(row, f"{row}\n| no such words | a cause | a hint |"))
    assert f"| {cause} |" in trouble.render(page)
    assert "a cause by hand" in trouble.render(page.replace(cause, "a cause by hand"))


def test_hints_are_found_however_they_are_put_together():
    found = {(hint.message, hint.hint) for hint in hints.collect()}
    wanted = [
        ("no destination", "name the MLflow server with --to URL, TRACKSYNC_TO or config.toml"),  # as they stand
        ("token file … can be read by others", "run: chmod 600 …"),  # with open parts
        ("…: …: unknown key", "did you mean …?"),  # one of two
        ("… may not be read: …", "mend its permissions, or the file system; it is tried again"),  # by names
        ("… cannot be listed: …", "the file system failed; it is tried again"),  # by a name of another module
        ("… open files", "run: ulimit -n …"),  # a finding of the doctor
    ]
    assert [each for each in wanted if each not in found] == []
