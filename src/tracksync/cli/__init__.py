"""The command line: the group ``tracksync``; each command is a module of its own, imported when it is asked for.

Only this package speaks click. It never imports mlflow: ``--help`` must not pay 1.5 s for it.
"""

from __future__ import annotations

import importlib
import logging
import os

import click

from tracksync.cli.failure import explain
from tracksync.cli.logformat import Clean

#: Commands in the order that help shows them; each is the object ``command`` of ``tracksync.cli.<name>``.
COMMANDS = ("push", "watch", "status", "verify", "prune", "stage", "notify", "doctor", "sources", "demo")

#: What MLflow's client imports starts a thread for each core of the host, and computes nothing here.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


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
        return command

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
    for name in ONE_THREAD:
        os.environ.setdefault(name, "1")
    handler = logging.StreamHandler()
    handler.setFormatter(Clean())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if verbose:
        logging.getLogger("tracksync").setLevel(logging.DEBUG)
