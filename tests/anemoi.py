"""Runs as anemoi-training logs them offline, and what its own `mlflow sync` makes of them on a server.

store = AnemoiStore(tmp_path / "logs" / "mlflow")         # or a database: tmp_path / "mlflow.db"
root = store.root("weather"); child = store.resumed(root); fork = store.fork(root)
own_sync(store, child, server.url, "weather")             # with all its defects

The logger is driven by no model here: MLflow's own client writes the tags and params that the logger writes. Likewise
`own_sync` does what anemoi-training 0.17.1 does, seen from the server; `stop_after` breaks it off after so many points.
"""

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag

from writer import RunWriter, now

PARENT = "mlflow.parentRunId"
RUN, META = "config.training.run_id", "metadata.run_id"
OFFLINE, META_OFFLINE = "config.training.offline_run_id", "metadata.offline_run_id"
SELF = "config.training.offline_self_run_id"
FORK, OFFLINE_FORK = "config.training.fork_run_id", "config.training.offline_fork_run_id"
KEYS = ["train_wmse_epoch", "val_wmse_epoch", "val_wmse/sfc_2t/1"]


class AnemoiStore:
    """A file store, or a database with its artifacts beside it. `runs` are those written here, in order."""

    def __init__(self, place):
        database = place.suffix == ".db"
        (place.parent if database else place).mkdir(parents=True, exist_ok=True)
        self.place, self._artifacts = place, place.parent / "mlartifacts" if database else None
        uri = f"sqlite:///{place}" if database else f"file://{place}"
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._experiments, self.runs = {}, []

    @property
    def path(self):
        return self.place

    def _experiment(self, name):
        if name not in self._experiments:
            where = None if self._artifacts is None else str(self._artifacts)
            self._experiments[name] = self.client.create_experiment(name, artifact_location=where)
        return self._experiments[name]

    def _start(self, experiment, tags, ids, logged, name):
        common = {"projectName": "Anemoi", "command": "train.py", "mlflow.source.name": "train.py"}
        common |= {"mlflow.source.type": "LOCAL", "mlflow.user": "alice", "mlflow.runName": name or "7c1b66db"}
        created = self.client.create_run(self._experiment(experiment), start_time=now() - 60_000, tags=common | tags)
        run = AnemoiRun(self, created.info, tags)
        run.experiment = experiment
        if logged:
            run.log_params(ids)
        self.runs.append(run)
        return run

    def root(self, experiment, *, logged=True, name=None):
        """A first run; not `logged`: it crashed before it had logged a param."""
        return self._start(experiment, {}, {}, logged, name)

    def resumed(self, parent, *, experiment=None, name=None):
        """A run that continues another one, as a child."""
        tags = {PARENT: parent.id, "resumedRun": "True"}
        return self._start(experiment or parent.experiment, tags, {RUN: parent.id, META: parent.id}, True, name)

    def fork(self, origin, *, experiment=None, resumes=None):
        """A run that starts from another one's state; with `resumes` it continues a third one at the same time."""
        tags, ids = {"forkedRun": "True", "forkedRunId": origin.id}, {FORK: origin.id}
        if resumes is not None:
            tags |= {PARENT: resumes.id, "resumedRun": "True"}
            ids |= {RUN: resumes.id, META: resumes.id}
        return self._start(experiment or origin.experiment, tags, ids, True, None)


class AnemoiRun(RunWriter):
    """A run of such a store that is being written: see `RunWriter`, whose methods on files are for file stores."""

    def __init__(self, store, info, tags):
        super().__init__(store, info.run_id, store.place / info.experiment_id / info.run_id, info.run_name)
        self.tags = tags

    def log_params(self, ids=()):
        """What the logger writes of the configuration; a run whose ids are not named holds its own."""
        params = {RUN: self.id, META: self.id, FORK: "None", **dict(ids)}
        params |= {"config.training.lr.rate": "0.1", "config.data.forcing": "['cos_latitude']", "metadata.seed": "7"}
        self.client.log_batch(self.id, params=[Param(key, value) for key, value in params.items()])

    def train(self, epochs=3, keys=KEYS):
        """Some epochs, and the log file."""
        start = self.steps
        self.steps += epochs
        points = [Metric(key, 1 / step, now(), step) for key in keys for step in range(start + 1, self.steps + 1)]
        self.client.log_batch(self.id, metrics=points)
        self.client.log_text(self.id, f"epoch {self.steps}\n", "terminal_log.txt")
        return self


def whole(store, epochs=3):
    """End all runs of a store after a short training."""
    for run in store.runs:
        run.train(epochs)
        run.end()


def own_sync(store, run, server, experiment="anemoi-debug", *, stop_after=None):
    """What `anemoi-training mlflow sync` does with one run; returns the id of the run that it made, or None."""
    there, source = MlflowClient(server), store.client.get_run(run.id)
    known = there.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else there.create_experiment(experiment)
    query = f"params.`{META_OFFLINE}` = '{{}}'"
    if source.info.status == "FINISHED" and there.search_runs([experiment_id], query.format(run.id)):
        return None
    made = there.create_run(experiment_id).info.run_id
    params, tags = dict(source.data.params), dict(source.data.tags) | {"offlineRun": "True"}

    def counterpart(source_id):
        hits = there.search_runs([experiment_id], query.format(source_id))
        return next((hit.info.run_id for hit in hits if hit.data.tags.get("resumedRun") != "True"), made)

    plain = {RUN: made, OFFLINE: run.id, META: made, META_OFFLINE: run.id}
    if params[FORK] == "None" and params[META] == run.id:
        params |= plain
    elif "forkedRun" in tags:
        tags |= {"offline.forkedRunId": tags["forkedRunId"], "forkedRunId": counterpart(tags["forkedRunId"])}
        params |= plain | {FORK: tags["forkedRunId"], OFFLINE_FORK: tags["offline.forkedRunId"]}
    elif "resumedRun" in tags:
        parent = tags[PARENT]
        tags |= {"mlflow.offline.parentRunId": parent, PARENT: counterpart(parent)}
        params |= {RUN: tags[PARENT], META: tags[PARENT], OFFLINE: parent, META_OFFLINE: parent, SELF: run.id}
    there.log_batch(made, params=[Param(*item) for item in params.items()])
    points = [point for key in sorted(source.data.metrics) for point in store.client.get_metric_history(run.id, key)]
    there.log_batch(made, metrics=[Metric(p.key, p.value, p.timestamp, p.step) for p in points[:stop_after]])
    if stop_after is not None:
        return made  # killed: no tags, no artifacts, no end
    there.log_batch(made, tags=[RunTag(*item) for item in (tags | {"mlflow.user": "syncing user"}).items()])
    there.log_text(made, "as it was\n", "terminal_log.txt")
    there.set_terminated(made, RunStatus.to_string(RunStatus.FINISHED))
    return made
