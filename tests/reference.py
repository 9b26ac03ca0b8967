"""The reference of the command line, from click's own objects: the same at every width and with every click."""

import inspect
import re

import click

from tracksync.cli import main
from tracksync.cli.configfile import KEYS

HEAD = """\
# Commands and options

Made by `make docs` from the commands' own `--help`; a test keeps it so.

An option is taken from the command line, else from its environment name, else from its key in
`~/.config/tracksync/config.toml`, else from that of `/etc/tracksync/config.toml`; the keys are the options' names
without the dashes, and [config.toml](../config.toml) explains them. A flag is set in the environment by `1` or `true`.
"""


def commands():
    """All commands with their names, in the order of the help."""
    context = click.Context(main)
    return {name: main.get_command(context, name) for name in main.list_commands(context)}


def options(command):
    """The options of a command, without ``--help``."""
    return [each for each in command.params if isinstance(each, click.Option) and each.name != "help"]


def render():
    """The whole page."""
    parts = [HEAD, *_section(main, "tracksync", "[OPTIONS] COMMAND [ARGS]...")]
    for name, command in commands().items():
        arguments = [each.metavar or each.name.upper() for each in command.params if isinstance(each, click.Argument)]
        parts += _section(command, f"tracksync {name}", " ".join(["[OPTIONS]", *arguments]))
    return "\n".join(parts)


def _section(command, name, arguments):
    yield f"## {name}\n\n    {name} {arguments}\n"
    yield from (f"{_cell(text)}\n" for text in inspect.cleandoc(command.help).split("\n\n"))
    if options(command):
        yield "| option | meaning | environment |\n| --- | --- | --- |"
        yield from map(_row, options(command))
        yield ""
    for text in re.split(r"\n\n+", inspect.cleandoc(command.epilog or "")):
        first, _, rest = text.partition("\n")
        if first == "\b":  # lines as they are
            title, *lines = rest.splitlines()
            yield f"{title}\n\n" + "\n".join(f"    {line.strip()}" for line in lines) + "\n"
        elif text:
            yield f"{_cell(text)}\n"


def _row(option):
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag or option.count else f" {_value(option)}"
    # one that is hidden from help or has no environment name is said so by an empty cell
    environment = f"`{option.envvar}`" if option.envvar else ""
    meaning = _cell(option.help or "")
    if option.show_default and isinstance(option.default, str | int | float) and not option.is_flag:
        meaning += f" [default: {option.default}]"
    shown = ", ".join(f"`{name}{value if name == names[-1] else ''}`" for name in names)
    return f"| {shown.replace('|', chr(92) + '|')} | {meaning} | {environment} |"


def _value(option):
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.metavar or option.type.name.upper()


def _cell(text):
    """A text in Markdown: its lines joined, and nothing in it taken for a mark, beyond what stands in backquotes."""
    quoted = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([|*<])", r"\\\1", part) for part in quoted)


def undescribed(command):
    """Options without a word of help."""
    return [each.name for each in options(command) if not each.help]


def unnamed(command):
    """Options that a configuration file knows, and the environment does not."""
    known = {key.replace("-", "_") for key in KEYS}
    return [each.name for each in options(command) if each.name in known and not each.envvar]
