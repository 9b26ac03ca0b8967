"""Nothing outside a run's own directories is opened or sent, whatever lies in the store: links, special files, paths.

Each trick is played in a run of its own; all are pushed at once, beside a good run, and nothing of it goes wrong.
"""

import os
import shutil
import socket
from types import SimpleNamespace

import pytest
from hostile import ACCESSED, Sentry
from mlflow import MlflowClient

import tracksync
from proxy import Proxy
from rawstore import RawStore, document, points, write
from tracksync.config import Settings
from tracksync.ledger import State

SECRET = "s3cr3t-of-somebody-else"
SOMEBODY = 4321
PARTS = ("artifacts", "params", "tags", "metrics", "inputs")
KINDS = {"artifacts": "artifact", "params": "param", "tags": "tag", "metrics": "metric", "inputs": "dataset"}
LINK = "a link or special file: not followed"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others and make devices")


def in_a_part(part, trick):
    """A trick whose name `odd` lies in a part of the run, and what is said of it."""

    def play(run, outside):
        (run.path / part).mkdir(exist_ok=True)
        trick(run.path / part / "odd", outside)

    return play, f"left out for good: {KINDS[part]}:odd: {LINK}"


def instead_of_a_part(part):
    def play(run, outside):
        if (run.path / part).exists():
            shutil.rmtree(run.path / part)
        (run.path / part).symlink_to(outside / part)

    return play, f"left out for good: {part}: {LINK}"


def link_to_file(path, outside):
    path.symlink_to(outside / "secret")


def link_to_directory(path, outside):
    path.symlink_to(outside)


def relative_link(path, outside):
    path.symlink_to(os.path.relpath(outside / "secret", path.parent))


def dangling_link(path, outside):
    path.symlink_to(outside / "nothing")


def link_loop(path, outside):
    path.symlink_to(path.name)


def link_up(path, outside):
    path.symlink_to("..")


def fifo(path, outside):
    os.mkfifo(path)


def device(path, outside):
    os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero: it has no end


def unix_socket(path, outside):
    before = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path.name)
    finally:
        os.chdir(before)


def hard_link(path, outside):
    os.link(outside.with_name("linked") / "secret", path)


EVERYWHERE = [link_to_file, link_to_directory, relative_link, dangling_link, link_loop, link_up, fifo, unix_socket]


def instead_of_meta(how, above=""):
    def play(run, outside):
        meta = run.path / above / "meta.yaml"
        meta.unlink()
        how(meta, outside)

    return play, "is a link or special file"


def artifact_uri(text):
    def play(run, outside):
        run.change(artifact_uri=text.replace("OUTSIDE", str(outside)))

    return play, "left out for good: artifacts: they lie at "


def dataset_at(source):
    """A dataset input whose dataset lies elsewhere."""

    def play(run, outside):
        (run.path.parent / "datasets").mkdir(exist_ok=True)
        link = {"source_id": source.replace("OUTSIDE", str(outside)), "source_type": "DATASET"}
        write(run.path / "inputs" / "odd" / "meta.yaml", document(link) + "tags: {}\n")

    return play, "left out for good: dataset:odd: "


def link_on_the_way_to_the_dataset(what):
    def play(run, outside):
        run.dataset("data", "0a", "training")
        (source,) = (run.path.parent / "datasets").iterdir()
        path = {"datasets": source.parent, "dataset": source, "meta.yaml": source / "meta.yaml"}[what]
        target = {"datasets": outside / "datasets", "dataset": outside / "datasets/x"}.get(what, outside / "secret")
        if what == "datasets":
            shutil.copytree(path, outside / "datasets", dirs_exist_ok=True)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(target)

    return play, f": {LINK}"


TRICKS = {
    **{f"{trick.__name__} in {part}": in_a_part(part, trick) for part in PARTS for trick in EVERYWHERE},
    **{f"link instead of {part}": instead_of_a_part(part) for part in PARTS},
    "link instead of meta.yaml": instead_of_meta(link_to_file),
    "fifo instead of meta.yaml": instead_of_meta(fifo),
    "directory link instead of meta.yaml": instead_of_meta(link_to_directory),
    "link instead of the experiment's meta.yaml": instead_of_meta(link_to_file, ".."),
    "artifact_uri elsewhere": artifact_uri("OUTSIDE"),
    "artifact_uri as file URL": artifact_uri("file://OUTSIDE"),
    "artifact_uri with a host": artifact_uri("file://otherhost/OUTSIDE"),
    "artifact_uri with dots": artifact_uri("OUTSIDE/artifacts/../../outside"),
    "artifact_uri encoded": artifact_uri("file://OUTSIDE/%2e%2e%2foutside"),
    "artifact_uri with NUL": artifact_uri('"OUTSIDE\\0/x"'),
    "artifact_uri relative": artifact_uri("../../../../outside"),
    "dataset by dots": dataset_at("../../../outside"),
    "dataset by an absolute path": dataset_at("OUTSIDE"),
    "dataset with NUL": dataset_at('"a\\0b"'),
    "dataset without a name": dataset_at("''"),
    "dataset of a very long name": (dataset_at("x" * 300)[0], "cannot be read: File name too long"),
    **{f"link to the {what}": link_on_the_way_to_the_dataset(what) for what in ("datasets", "dataset", "meta.yaml")},
}
AS_ROOT = {
    **{f"device in {part}": in_a_part(part, device) for part in PARTS},
    **{f"hard link in {part}": in_a_part(part, hard_link) for part in PARTS},
    "hard link instead of meta.yaml": instead_of_meta(hard_link),
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Somebody else's directory; it looks like a run, so that it would be taken if it were followed."""
    root = tmp_path_factory.mktemp("somebody") / "outside"
    for name in ("secret", "params/lr", "tags/note", "metrics/loss", "artifacts/key", "inputs/x/meta.yaml",
                 "datasets/x/meta.yaml"):  # fmt: skip
        write(root / name, f"{SECRET}\n")
    write(root.with_name("linked") / "secret", f"{SECRET}\n")
    if os.geteuid() == 0:
        os.chown(root.with_name("linked") / "secret", SOMEBODY, SOMEBODY)
    return root


@pytest.fixture(scope="module")
def played(server, outside, tmp_path_factory):
    """All tricks in one store, pushed once: what was said of each, what was sent, and what was opened."""
    store = RawStore(tmp_path_factory.mktemp("hostile") / "mlruns")
    good = store.run("hostile links: good", metrics={"loss": points(3)}, params={"lr": "1"}, artifacts={"a": "x"})
    runs = {}
    for name, (play, _) in (TRICKS | (AS_ROOT if os.geteuid() == 0 else {})).items():
        runs[name] = store.run(f"hostile links: {name}", params={"own": "1"})
        play(runs[name], outside)
    settings = {"settle": 0.0, "state_dir": tmp_path_factory.mktemp("state")}
    linked = outside.with_name("linked")  # a hard link shows what it is only once it is open
    with Proxy(server.url) as proxy, Sentry(outside) as sentry, Sentry(linked, ACCESSED) as reading:
        report = tracksync.push(store.root, settings=Settings(to=proxy.url, **settings))
        opened = sentry.opened + reading.opened
    outcomes = {run.source_id: run for run in report.runs}
    return SimpleNamespace(good=good, runs=runs, outcomes=outcomes, opened=opened, sent=proxy.requests)


def test_nothing_outside_is_opened(played):
    assert played.opened == []


def test_nothing_outside_is_sent(played):
    assert played.sent
    assert not [seen.path for seen in played.sent if SECRET.encode() in seen.body or SECRET in seen.path]


def test_the_others_are_delivered(played, server):
    outcome = played.outcomes[played.good.id]
    assert (outcome.state, outcome.points, outcome.files) == (State.DONE, 3, 1)
    assert MlflowClient(server.url).get_run(outcome.run_id).data.params == {"lr": "1"}


@pytest.mark.parametrize("name", [*TRICKS, *(pytest.param(name, marks=needs_root) for name in AS_ROOT)])
def test_it_is_said_and_the_rest_of_the_run_goes(played, server, name):
    _, said = (TRICKS | AS_ROOT)[name]
    outcome = played.outcomes[played.runs[name].id]
    assert any(said in note for note in outcome.notes), outcome.notes
    if "meta.yaml" in said or outcome.state is State.HELD:
        assert (outcome.state, outcome.run_id) == (State.HELD, None)
    else:
        assert outcome.state is State.DONE
        there = MlflowClient(server.url).get_run(outcome.run_id)
        assert there.data.params == ({} if name == "link instead of params" else {"own": "1"})


@pytest.mark.parametrize("what", ["run", "experiment", "store's trash"])
def test_a_link_in_place_of_a_directory_of_the_store_is_no_run(server, outside, tmp_path, experiment_name, what):
    store = RawStore(tmp_path / "mlruns")
    good = store.run(experiment_name, metrics={"loss": points(3)})
    theirs = RawStore(outside / f"store of {what[:3]}")
    theirs.run(f"{experiment_name} theirs", params={"key": SECRET})
    (experiment,) = theirs.experiments.values()
    link, target = {
        "run": (good.path.with_name("e" * 32), next(path for path in experiment.iterdir() if path.is_dir())),
        "experiment": (store.root / "700", experiment),
        "store's trash": (store.root / ".trash", theirs.root),
    }[what]
    link.symlink_to(target)
    with Sentry(outside) as sentry:
        report = tracksync.push(store.root, settings=Settings(to=server.url, settle=0.0, deleted=True))
        assert sentry.opened == []
    assert [(run.source_id, run.state) for run in report.runs] == [(good.id, State.DONE)]


@needs_root
def test_a_hard_link_of_the_same_owner_is_a_file_like_any_other(server, tmp_path, experiment_name):
    """`cp -al`, `rsync --link-dest` and deduplication make them."""
    store = RawStore(tmp_path / "mlruns")
    run = store.run(experiment_name, params={"lr": "1"}, metrics={"loss": points(3)}, artifacts={"a.txt": "x"})
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy, copy_function=os.link)
    for path, _, names in os.walk(store.root):
        for name in [".", *names]:
            os.chown(f"{path}/{name}", SOMEBODY, SOMEBODY)
    report = tracksync.push(store.root, settings=Settings(to=server.url, settle=0.0))
    assert [(r.source_id, r.state, r.points, r.files, r.notes) for r in report.runs] == [(run.id, State.DONE, 3, 1, ())]
