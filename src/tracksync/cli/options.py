"""The options that commands share. Each has an environment name and a key in ``config.toml``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tracksync.cli import configfile, logformat
from tracksync.cli.values import Flag, Mapped, Place, Several

#: Adds options to a command's function.
Decorator = Callable[[Any], Any]

#: Where ``click.Context.meta`` keeps in which order the rules were given.
ORDER = "tracksync.order"


class Ordered(click.Command):
    """A command that knows in which order ``--include`` and ``--exclude`` were given, across both."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and note the order."""
        words = args[: args.index("--")] if "--" in args else args
        names = (word.partition("=")[0] for word in words)
        ctx.meta[ORDER] = [name[2:] for name in names if name in ("--include", "--exclude")]
        return super().parse_args(ctx, args)


#: Where ``click.Context.meta`` keeps what the configuration files say, and the chosen state directory.
FILES, STATE_DIR = "tracksync.files", "tracksync.state_dir"


def _option(*names: str, text: str, default: str | None = None) -> Decorator:
    """One option: type by :data:`configfile.KEYS`, environment name by its long name."""
    key = next(name for name in names if name.startswith("--"))[2:]
    kind = configfile.KEYS[key]
    shape: dict[str, Any] = {"is_flag": True} if isinstance(kind, Flag) else {"type": kind, "default": default}
    if isinstance(kind, Several):
        shape = {"type": kind.each, "multiple": True}
    return click.option(
        *names,
        envvar=f"TRACKSYNC_{key.replace('-', '_').upper()}",
        show_envvar=True,
        show_default=default is not None,
        help=text,
        **shape,
    )


def _load_files(ctx: click.Context, _param: click.Parameter, value: Path | None) -> None:
    """Read the configuration files before any other option, and make them the defaults of this command."""
    files = configfile.load(value)
    ctx.meta[FILES] = files
    ctx.default_map = {name.replace("-", "_"): setting for name, setting in files.options.items()}
    ctx.meta[STATE_DIR] = files.options.get("state-dir")


def _note_state_dir(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    """Remember the state directory: an unexpected error leaves its details there."""
    ctx.meta[STATE_DIR] = value
    return value


def log_format(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--log-format``."""
    return click.option(
        "--log-format",
        type=configfile.KEYS["log-format"],
        default=logformat.TEXT,
        show_default=True,
        envvar="TRACKSYNC_LOG_FORMAT",
        show_envvar=True,
        expose_value=False,
        callback=logformat.choose,
        help="Lines for people, or JSON: a message that never changes, and fields.",
    )(function)


def config(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config``."""
    return click.option(
        "--config",
        type=Place(),
        envvar="TRACKSYNC_CONFIG",
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=_load_files,
        help="Configuration file to use instead of ~/.config/tracksync/config.toml.",
    )(function)


def state_dir(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--state-dir``."""
    return click.option(
        "--state-dir",
        type=Place(),
        envvar="TRACKSYNC_STATE_DIR",
        show_envvar=True,
        callback=_note_state_dir,
        help="Where the ledger is kept. [default: ~/.local/state/tracksync]",
    )(function)


to = _option("--to", text="URL of the MLflow server.")
experiment = _option(
    "--experiment",
    text="Name of the experiment on the server; {experiment}, {user}, {project} and {store} are filled in.",
)
token_file = _option("--token-file", text="File with a bearer token; read again when it changes.")
token_command = _option(
    "--token-command",
    text="Command that prints a bearer token, or renews --token-file; run when the token expires or is refused.",
)
since = _option("--since", text="Leave out runs that did not change for this long, e.g. 7d.")
include = _option(
    "--include",
    text="Send only artifacts that match a glob; or runs: experiment:GLOB, run:GLOB (name), status:GLOB, tag:KEY=GLOB. "
    "May be repeated; of all --include and --exclude of a kind the first that matches decides.",
)
exclude = _option("--exclude", text="Leave these out, e.g. '*.ckpt' or experiment:test-*; as --include.")
run = _option("--run", text="Only the run with this id; may be repeated.")
max_size = _option("--max-size", text="Leave out larger artifacts, e.g. 10GB.")
link_over = _option("--link-over", text="Of larger artifacts send only a small JSON with path, size and checksum.")
redact = _option("--redact", text="Replace the values of params and tags whose key matches this glob, e.g. '*token*'.")
tag = _option("--tag", text="Give each run this tag, e.g. site=hpc2; one that it has stays. May be repeated.")
no_source_path = _option("--no-source-path", text="Do not tell the server on which host and path a run lay.")
bwlimit = _option("--bwlimit", text="Send at most so much a second, all in all, e.g. 10MB.")
settle = _option("--settle", text="How long a file must stay unchanged. [default: 5s, on network file systems 60s]")
path_map = click.option(
    "--path-map",
    type=Mapped(),
    multiple=True,
    envvar="TRACKSYNC_PATH_MAP",
    show_envvar=True,
    metavar="OLD=NEW",
    help="Read artifacts that a store says lie below OLD from NEW; may be repeated.",
)
live_max_size = _option(
    "--live-max-size", default="100MB", text="Larger files are sent once, when their run has ended."
)
deleted = _option("--deleted", text="Also send runs that are deleted at the source, and delete them on the server.")
retry = _option("--retry", text="Try held runs again although nothing changed.")
restore = _option("--restore", text="Revive runs that were deleted on the server.")
no_slurm = _option("--no-slurm", text="Do not ask Slurm whether the jobs of runs that were never ended are over.")
stale_after = _option(
    "--stale-after",
    default="1d",
    text="Call a run stale that nothing has ended and that did not change for this long.",
)
convention = _option(
    "--convention",
    default="auto",
    text="Whether runs of frameworks such as anemoi get what these write on a server: auto, or none.",
)
dry_run = _option("-n", "--dry-run", text="Say what would be sent, and stop.")
report = _option("--report", text="At the end compare both sides, and count what each holds: for a migration.")
write_manifest = _option("--write-manifest", text="List the runs in this file, for --manifest, and send nothing.")
manifest = _option("--manifest", text="Send the runs that this file lists, instead of those at PATH.")
shard = _option("--shard", text="With --manifest: only part i of n, i from 1; families stay in one part.")
wait = _option("--wait", default="10m", text="How long to wait for runs that another process is sending.")
server_wait = _option(
    "--server-wait",
    default="60s",
    text="How long to wait for a server that does not answer; watch without --once waits for ever.",
)
repair = _option("--repair", text="Send what differs, and nothing else.")
recreate = _option("--recreate", text="With --repair: make runs anew that are gone from the server.")
checksums = _option("--checksums", text="Compare artifacts by content, not only by size: fetches every byte.")
older_than = _option("--older-than", text="Only runs that did not change for this long, e.g. 30d.")
artifacts_only = _option("--artifacts-only", text="Only the files of the runs; params, metrics and tags stay.")
spool = _option("--spool", text="Directory of the notices. [default: spool in the state directory]")
quiet = _option("-q", "--quiet", text="Print only errors and held runs.")
live = _option("--live", text="A table that is drawn again every two seconds, until Ctrl-C.")
as_json = _option("--json", text="Print the result as JSON.")
metrics_file = _option("--metrics-file", text="Keep numbers for node-exporter's textfile collector here: NAME.prom.")
once = _option("--once", text="Look at everything once, then exit.")
interval = _option("--interval", default="10s", text="Time between two looks at a run that is going on.")
settled_interval = _option("--settled-interval", default="60s", text="Time between two looks at all other runs.")


def combine(*decorators: Decorator) -> Decorator:
    """Apply decorators so that help shows their options in the order given."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


#: What decides which runs are sent, and how they look there.
shaping = combine(include, exclude, run, max_size, link_over, redact, tag, no_source_path)
#: What ``push`` and ``watch`` have in common.
sending = combine(
    to, token_file, token_command, experiment, since, shaping, settle, path_map, live_max_size, bwlimit, deleted,
    no_slurm, convention, dry_run, state_dir, config, quiet, log_format,
)  # fmt: skip
#: What ``verify`` has in common with them.
comparing = combine(
    to, token_file, token_command, experiment, since, shaping, settle, path_map, bwlimit, deleted, convention,
    state_dir, config, quiet, log_format,
)  # fmt: skip
