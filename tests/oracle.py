"""Whether a server holds what the stores hold, read on both sides with MLflow's own client.

    assert_equal([store, ...], server.url)

A store is the directory of a file store, or an SQLite file (which is read from a copy: the client would migrate it).

Every difference is listed in one assertion. What is compared, for each run of the stores: that exactly one run on the
server (of any experiment, deleted ones included) carries its id, experiment, name, user, status, start and end time,
lifecycle stage, params, tags (people may add some on the server), every metric point, dataset inputs, artifacts by
path and content, the parent, and the logged models that the run made (name, type, status, params, tags, metrics,
artifacts) or is linked with. Identical repeats of a point are one point, as they are in MLflow's databases.
"""

import math
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from sqlitestore import THERE
from sqlitestore import models_of as models_of_database

SOURCE_ID = "tracksync.source.run_id"
SOURCE_MODEL = "tracksync.source.model_id"
PARENT = "mlflow.parentRunId"
LARGEST = 1.7976931348623157e308
_scratch = tempfile.TemporaryDirectory(prefix="tracksync-test-oracle-")
ENDED = ("FINISHED", "FAILED", "KILLED")


def client_of(uri):
    """MLflow's client for a store's path or a server's address."""
    if isinstance(uri, Path):
        uri = f"sqlite:///{_copy(uri)}" if uri.is_file() else f"file://{uri}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _copy(database):
    """A copy of a database in its present state, which lives as long as the tests; samples name their real place."""
    with tempfile.NamedTemporaryFile(dir=_scratch.name, suffix=".db", delete=False) as file:
        copy = file.name
    source = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    with closing(source), closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        moved = (THERE, str(database.parent))
        target.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", moved)
        if models_of_database(database):
            target.execute("UPDATE logged_models SET artifact_location = replace(artifact_location, ?, ?)", moved)
        target.commit()
    return copy


def found(server, source_id):
    """The runs on a server that carry a source id, deleted ones included."""
    there = client_of(server)
    experiments = [e.experiment_id for e in there.search_experiments(view_type=ViewType.ALL)]
    query = f"tags.`{SOURCE_ID}` = '{source_id}'"
    return list(there.search_runs(experiments, query, run_view_type=ViewType.ALL))


def counterpart(server, source_id):
    """The one run on a server that carries a source id."""
    runs = found(server, source_id)
    assert len(runs) == 1, f"{len(runs)} runs on the server for {source_id}: {[r.info.run_id for r in runs]}"
    return runs[0]


def points(client, run_id, key):
    """The points of a key as a set that can be compared: NaN equals itself, the largest double is infinite."""
    return {(m.timestamp, m.step, comparable(m.value)) for m in client.get_metric_history(run_id, key)}


def comparable(value):
    value = float(value)
    return repr(math.copysign(math.inf, value) if abs(value) >= LARGEST else value + 0.0)


def artifacts(client, run_id):
    """Every artifact of a run: path -> content. What tracksync adds itself is left out."""
    # The client's own listing asks for logged models too, which an old server answers with 404.
    return contents(client, client.get_run(run_id).info.artifact_uri)


def contents(client, uri):
    """Every file below an artifact URI: path -> content."""
    repository = get_artifact_repository(uri, client.tracking_uri)
    with tempfile.TemporaryDirectory() as scratch:
        return {path: _content(repository, path, scratch) for path in _paths(repository, None)}


def _content(repository, path, scratch):
    """The bytes of one artifact, or why they cannot be had: one that is just being replaced breaks off."""
    try:
        return Path(repository.download_artifacts(path, scratch)).read_bytes()
    except MlflowException as error:
        if "while downloading" not in str(error):
            raise
        return str(error)


def _paths(repository, directory):
    for entry in repository.list_artifacts(directory):
        if entry.path == "tracksync":
            continue
        if entry.is_dir:
            yield from _paths(repository, entry.path)
        else:
            yield entry.path


def source_runs(store, here=None):
    """The runs of a store that are not deleted, as MLflow's client reads them."""
    here = here or client_of(Path(store))
    experiments = [e.experiment_id for e in here.search_experiments()]
    runs, token = [], None
    while True:
        page = here.search_runs(experiments, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def differences(stores, server, experiment=lambda name: name, readers=None):
    """One line for each thing that is not the same; ``experiment`` maps an experiment's name to the server's.

    ``readers`` are clients of stores that nobody writes any more: to open one anew may take seconds.
    """
    there = client_of(server)
    clients = [(store, (readers or {}).get(store) or client_of(Path(store))) for store in stores]
    runs = {run.info.run_id: (here, run) for store, here in clients for run in source_runs(store, here)}
    pairs, lines = {}, []
    for source_id in runs:
        matches = found(server, source_id)
        if len(matches) == 1:
            pairs[source_id] = matches[0]
        else:
            lines.append(f"{source_id}: {len(matches)} runs on the server: {[r.info.run_id for r in matches]}")
    ids = {run.info.run_id: source_id for source_id, run in pairs.items()}
    for source_id, theirs in pairs.items():
        here, ours = runs[source_id]
        for what, a, b in _compared(here, ours, there, theirs, ids, experiment):
            if a != b:
                lines.append(f"{source_id} ({ours.info.run_name}) {what}: source {a!r}, server {b!r}")
    return lines


def assert_equal(stores, server, **options):
    """Fail with all differences between some stores and what a server holds of their runs."""
    lines = differences([stores] if isinstance(stores, (str, Path)) else stores, server, **options)
    assert not lines, "\n".join(lines)


def _compared(here, ours, there, theirs, ids, experiment):
    a, b = ours.info, theirs.info
    name = here.get_experiment(a.experiment_id).name
    yield "experiment", experiment(name), there.get_experiment(b.experiment_id).name
    for field in ("run_name", "user_id", "status", "start_time", "lifecycle_stage"):
        yield field, getattr(a, field), getattr(b, field)
    if a.status in ENDED:
        yield "end_time", a.end_time, b.end_time
    yield "params", ours.data.params, theirs.data.params
    yield from _tags(ours.data.tags, theirs.data.tags)
    yield "parent", *_parents(ours.data.tags, theirs.data.tags, ids)
    yield "metric keys", set(ours.data.metrics), set(theirs.data.metrics)
    for key in set(ours.data.metrics) & set(theirs.data.metrics):
        yield f"points of {key!r}", *_apart(points(here, a.run_id, key), points(there, b.run_id, key))
    yield "datasets", _datasets(ours), _datasets(theirs)
    yield from _models(here, ours, there, theirs)
    yield "artifacts", artifacts(here, a.run_id), artifacts(there, b.run_id)


def _apart(source, server):
    """Only what is not on the other side: histories are long."""
    return source - server, server - source


def _tags(source, server):
    for key, value in source.items():
        if key != PARENT:
            yield f"tag {key!r}", value, server.get(key)


def _parents(source, server, ids):
    """A link by the parent's source id; one whose parent is not in the stores has to wait, and say so."""
    wanted, linked = source.get(PARENT), server.get(PARENT)
    if wanted in ids.values():
        return (wanted, wanted, None), (ids.get(linked, linked), server.get("tracksync.source.parent_run_id"),
                                        server.get("tracksync.parent_pending"))  # fmt: skip
    return (None, wanted), (linked, server.get("tracksync.parent_pending"))


def _all_models(client, run):
    try:
        return client.search_logged_models([run.info.experiment_id])
    except MlflowException:  # too old to have any
        return []


def models_of(client, run):
    """The logged models that a run made; none where the server is too old to have any."""
    return [model for model in _all_models(client, run) if model.source_run_id == run.info.run_id]


def server_model(server, source_id):
    """The one model on a server that carries a source id."""
    there = client_of(server)
    experiments = [e.experiment_id for e in there.search_experiments(view_type=ViewType.ALL)]
    models = there.search_logged_models(experiments, f"tags.`{SOURCE_MODEL}` = '{source_id}'")
    assert len(models) == 1, f"{len(models)} models on the server for {source_id}: {[m.model_id for m in models]}"
    return models[0]


def _models(here, ours, there, theirs):
    """What a run made and is linked with; models are paired by their source id."""
    source = {m.model_id: m for m in models_of(here, ours)}
    server = [(m.tags.get(SOURCE_MODEL), m) for m in models_of(there, theirs)]
    yield "models", sorted(source), sorted(str(name) for name, _ in server)
    pairs = dict(server)
    # a search in a database tells of no inputs that are models
    ours, theirs = here.get_run(ours.info.run_id), there.get_run(theirs.info.run_id)
    for name in source.keys() & pairs.keys():
        yield from _model(here, source[name], there, pairs[name])
    yield "measured", *_apart(_measured_here(here, ours), _measured_there(there, theirs))
    yield (
        "outputs",
        _links(here, ours, ours.outputs, "model_outputs"),
        _links(there, theirs, theirs.outputs, "model_outputs"),
    )
    yield (
        "inputs",
        _links(here, ours, ours.inputs, "model_inputs"),
        _links(there, theirs, theirs.inputs, "model_inputs"),
    )


def _links(client, run, links, name):
    """The models that a run is linked with, by their source ids, with the step of an output."""
    found = []
    for link in getattr(links, name, None) or ():
        tags = client.get_logged_model(link.model_id).tags
        found.append((tags.get(SOURCE_MODEL, link.model_id), getattr(link, "step", None)))
    return sorted(found)


def _model(here, a, there, b):
    for field in ("name", "status"):
        yield f"model {field}", getattr(a, field), getattr(b, field)
    yield "model type", a.model_type or "", b.model_type or ""
    yield "model params", a.params, b.params
    yield "model tags", a.tags, {k: b.tags.get(k) for k in a.tags}
    yield "model artifacts", contents(here, a.artifact_location), contents(there, b.artifact_location)


def _measured_here(client, run):
    """What a run measured of models. From the files: MLflow's own reader tells only the latest point of each key."""
    if client.tracking_uri.startswith("sqlite:"):
        return _measured(client, run, lambda model: model.model_id)
    found = set()
    for model in _all_models(client, run):
        metrics = Path(model.artifact_location.removeprefix("file://")).parent / "metrics"
        for path in (path for path in metrics.rglob("*") if path.is_file()):
            for line in path.read_text().splitlines():
                timestamp, value, step, run_id, *dataset = line.split()
                point = (str(path.relative_to(metrics)), int(timestamp), int(step), _stored(float(value)))
                if run_id == run.info.run_id:
                    found.add((model.model_id, *point, *(dataset or (None, None))))
    return found


def _measured_there(client, run):
    return _measured(client, run, lambda model: model.tags.get(SOURCE_MODEL))


def _measured(client, run, name):
    return {
        (name(model), m.key, m.timestamp, m.step, _stored(m.value), m.dataset_name, m.dataset_digest)
        for model in _all_models(client, run)
        for m in model.metrics or ()
        if m.run_id == run.info.run_id
    }


def _stored(value):
    """The databases of MLflow's servers hold 0 for a NaN that was measured of a model."""
    return comparable(0.0 if math.isnan(value) else value)


def _datasets(run):
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return sorted(
        (i.dataset.name, i.dataset.digest, i.dataset.source, sorted((tag.key, tag.value) for tag in i.tags))
        for i in inputs
    )
