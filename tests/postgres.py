"""A PostgreSQL of our own for a test: a new cluster in a scratch directory, reached through a socket in it.

    with Postgres() as database:
        MlflowServerProcess(directory, options=["--backend-store-uri", database.uri])

As root it runs as nobody, because PostgreSQL refuses to run as root.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lacking import lacking
from servers import WITH_US
from waiting import until


def _command(name):
    """A program of PostgreSQL; Debian keeps them out of the PATH. Skips without it, fails when CI is set."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (places[-1] if places else None)
    if found is None:
        lacking("no PostgreSQL here: apt-get install postgresql")
    return str(found)


class Postgres:
    """A cluster with one database; `uri` is what MLflow is told."""

    def __enter__(self):
        initdb, postgres = _command("initdb"), _command("postgres")
        self.directory = Path(tempfile.mkdtemp(prefix="tracksync-pg-", dir="/tmp"))  # the path of a socket is short
        self._as = {}
        if os.geteuid() == 0:
            shutil.chown(self.directory, "nobody")
            self._as = {"user": "nobody", "extra_groups": []}
        data = self.directory / "data"
        options = ["--auth=trust", "--username=mlflow", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run([initdb, *options, "-D", data], check=True, capture_output=True, cwd="/", **self._as)
        server = [postgres, "-D", data, "-k", self.directory, "-c", "listen_addresses=", "-c", "fsync=off"]
        self.process = subprocess.Popen(
            ["sh", "-c", WITH_US, "sh", *server],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._as,
        )
        self.uri = f"postgresql+psycopg://mlflow@/postgres?host={self.directory}"
        try:
            until(self._ready, seconds=60, what="PostgreSQL does not start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _ready(self):
        import psycopg

        try:
            psycopg.connect(f"host={self.directory} user=mlflow dbname=postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def __exit__(self, *_):
        self.process.stdin.close()  # the end of the pipe ends it with all that it started
        self.process.wait(30)
        shutil.rmtree(self.directory)
