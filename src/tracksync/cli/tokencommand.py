"""Bearer tokens from a command of the user's, run when the last one is about to expire or was refused.

Neither its output nor its arguments are ever shown: either may hold a secret.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tracksync.cli.renewed import RenewedToken
from tracksync.cli.token import LIMIT, Token, parse
from tracksync.cli.tokenfile import TokenFile
from tracksync.errors import ConfigError, UnreachableError

#: Seconds that the command gets.
TIMEOUT = 30.0
#: With this exit code the command says that it may work later (EX_TEMPFAIL, sysexits.h).
LATER = 75

_HINT = "run it by hand to see why"


class TokenCommand(RenewedToken):
    """Returns the token that a command prints, and runs it again in time. Safe to share between threads.

    Args:
        argv: the command and its arguments; no shell reads them.
        file: what the command renews; its output is then of no interest.
    """

    def __init__(self, argv: Sequence[str], file: TokenFile | None = None) -> None:
        super().__init__()
        self._argv, self.file = list(argv), file
        self.name = Path(argv[0]).name

    def _look(self) -> None:
        """Take what lies in the file; whether there is one that can be used is the command's affair."""
        if self.file is not None:
            with suppress(ConfigError):
                self._take(self.file.token())

    def _fetch(self) -> Token:
        printed = run(self._argv, self.name)
        return self.file.token() if self.file is not None else self._printed(printed)

    def _printed(self, printed: bytes) -> Token:
        try:
            token = parse(printed, time.time())
        except ValueError as error:
            raise ConfigError(f"token command {self.name} does not print one token: {error}", _HINT) from None
        if token is None:
            raise ConfigError(f"token command {self.name} prints nothing", _HINT)
        return token


def run(argv: Sequence[str], name: str, seconds: float = TIMEOUT) -> bytes:
    """What the command prints, at most ``LIMIT + 1`` bytes of it; ``name`` is what errors call it.

    It gets no input and no terminal, and what it started ends with it when the time is up.

    Raises:
        ConfigError: it cannot be started, or ends badly.
        UnreachableError: it takes too long, or says itself that it may work later.
    """
    # Of the service manager it must know nothing: it is not the service.
    environment = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
    try:
        process = subprocess.Popen(  # noqa: S603 - it is the user's own command, from the command line or the settings
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds a NUL"
        raise ConfigError(f"token command {name} cannot be run: {reason}", "check --token-command") from None
    end = time.monotonic() + seconds
    try:
        printed = _output(process, end)
        if len(printed) > LIMIT:
            raise ConfigError(f"token command {name} prints more than a token", _HINT)
        code = process.wait(max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"token command {name} did not end within {seconds:.0f} s", _HINT) from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if code == LATER:
        raise UnreachableError(f"token command {name} has no token now (exit {code})", _HINT)
    if code != 0:
        raise ConfigError(f"token command {name} ended with exit code {code}", _HINT)
    return printed


def _output(process: subprocess.Popen[bytes], end: float) -> bytes:
    """What it prints, until it closes its output, ends, or has printed too much.

    Raises:
        subprocess.TimeoutExpired: it did none of these before ``end`` (monotonic seconds).
    """
    assert process.stdout is not None
    descriptor, printed = process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(printed) <= LIMIT:
        ended = process.poll() is not None  # before the look: what it wrote last is there then
        if poll.poll(0 if ended else 50):
            block = os.read(descriptor, 1 << 16)
            if not block:
                break
            printed += block
        elif ended:
            break  # something that it left behind holds its output open
        if time.monotonic() > end:
            raise subprocess.TimeoutExpired(process.args, 0)
    return printed
