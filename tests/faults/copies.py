"""Stores by the dozen: a store that was written once, again under other ids."""

import os
import secrets
import shutil
import uuid

from writer import RunWriter, Writer


def family(root, ended, points):
    """A template of a store: a run and its children, all of which have ended, and one that goes on."""
    store = Writer(root)
    for number in range(ended):
        run = store.run("an experiment of the template", name=f"run {number}", parent=store.runs[0] if number else None)
        run.param("seed", number)
        run.many("loss", points)
        run.file("a.txt", b"text of %d" % number)
        run.end()
    live = store.run("an experiment of the template", name="live")
    live.many("loss", 20)
    return store


class Copy(Writer):
    """A store with the runs of another one under ids of their own, in experiments of their own.

    Nothing but the ids, the experiments' names and the store's own path is changed, byte for byte; like any other
    store it can be written on.
    """

    def __init__(self, template, root):
        shutil.copytree(template.root, root)
        super().__init__(root)
        ids = {run.id: secrets.token_hex(16) for run in template.runs}
        self._experiments = {}
        changes = [(old.encode(), new.encode()) for old, new in ids.items()]
        changes.append((os.fsencode(template.root), os.fsencode(self.root)))
        for name, number in template._experiments.items():
            new = f"experiment {uuid.uuid4().hex}"
            self._experiments[new] = number
            changes.append((name.encode(), new.encode()))
        for name in ("meta.yaml", "mlflow.parentRunId"):
            for path in list(self.root.rglob(name)):
                content = path.read_bytes()
                for old, new in changes:
                    content = content.replace(old, new)
                path.write_bytes(content)
        for run in template.runs:
            here = self.root / run.path.relative_to(template.root)
            path = here.rename(here.with_name(ids[run.id]))
            self.runs.append(RunWriter(self, path.name, path, run.name))
            self.runs[-1].steps = run.steps

    @property
    def experiments(self):
        """The names of the experiments here."""
        return list(self._experiments)

    def named(self, name):
        """The run of that name."""
        (run,) = [run for run in self.runs if run.name == name]
        return run
