"""``python -m tracksync``: the same as the command ``tracksync``."""

from tracksync.cli import main

main(prog_name="tracksync")
