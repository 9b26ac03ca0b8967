"""The command line: the group ``tracksync``; each command is a module of its own, imported when it is asked for.

Only this package speaks click. It never imports mlflow: ``--help`` must not pay 1.5 s for it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys

import click

from tracksync.cli.failure import explain
from tracksync.cli.logformat import Clean

#: Commands in the order that help shows them, each with its line there: to import them all would take longer than all
#: else. Each is the object ``command`` of ``tracksync.cli.<name>``.
COMMANDS = {
    "push": "Send runs to the MLflow server, then exit.",
    "watch": "Send runs as they are written, until told to stop.",
    "status": "Show what is delivered, pending and held.",
    "verify": "Compare runs with the server; --repair sends what differs.",
    "prune": "Remove local runs that the server holds whole.",
    "stage": "Copy runs from node-local scratch to the shared store.",
    "notify": "Ask a live watch to send certain runs now.",
    "doctor": "Look for what could be in the way.",
    "sources": "List the kinds of store that are understood.",
    "demo": "See it work: a server, a toy job, a live sync.",
}

#: What MLflow's client imports starts a thread for each core of the host, and another one; nothing is computed here.
#: And it keeps ten connections, where there are more threads that send.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MLFLOW_HTTP_POOL_MAXSIZE": "16",
}
#: What that client looks for along ``sys.path``, six times a request, to find out whether it runs in a notebook.
NOTEBOOK = ("IPython", "pyspark")

EPILOG = """\b
Examples:
  tracksync demo                                 see it work, on this machine
  tracksync push --to https://mlflow.example.org mlruns
  tracksync push --help                          its options, each with its environment name
"""


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to show its help, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command by its name; None when there is none of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"tracksync.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; what it raises becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: explain() reports all of it
            ctx.exit(explain(error, verbose=bool(ctx.params.get("verbose"))))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(package_name="tracksync", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="Log details to stderr; show tracebacks of unexpected errors.")
def main(*, verbose: bool) -> None:
    """Carry MLflow runs that were logged offline to a remote MLflow server: once, complete, live."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in NOTEBOOK:
        if importlib.util.find_spec(name) is None:
            # Python's own way of saying that it is not there: the process is ours, and none is installed while it runs.
            sys.modules[name] = None  # type: ignore[assignment]
    handler = logging.StreamHandler()
    handler.setFormatter(Clean())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if verbose:
        logging.getLogger("tracksync").setLevel(logging.DEBUG)
