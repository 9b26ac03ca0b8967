"""Which run a directory with event files belongs to: each run is to appear once."""

import os

import pytest
from filestore_make import Clock, make_run, unprivileged, write

from eventlog import EventLog
from tracksync.errors import NotSettledError
from tracksync.sources import claims, load_sources
from tracksync.sources.tensorboard import TensorBoardSource

NAME = "events.out.tfevents.1700000000.host.1.0"
SIDECAR = "run_name: car\nstage_name: train\nhp: {}\n"


def runs(path, source=None):
    source = source or TensorBoardSource()
    return sorted(str(ref.path.relative_to(path)) for store in source.find(path) for ref in source.discover(store))


def log(path, records=1):
    made = EventLog(path / NAME)
    for step in range(records):
        made.scalar("a", 0.5, step)
    return made


@pytest.mark.parametrize(
    "where",
    [
        "7/0123456789abcdef0123456789abcdef/artifacts/tb",
        "task/model/0123456789abcdef0123456789abcdef/artifacts/lightning_logs/version_0",
        "7/models/m-0123456789abcdef0123456789abcdef/artifacts/tb",
        "wandb/offline-run-20240101_000000-abc/files/tb",
        "out/2026-01-01_aaaaa/runs",
        "out/2026-01-01_aaaaa/train/tb/deeper",
        "runs/net_20240101_000000/tensorboard",
        "runs/net_20240101_000000/tensorboard/fig/0",
        "project/.cache/tb",
    ],
)
def test_what_lies_in_a_run_of_another_kind_is_no_run(tmp_path, where):
    log(tmp_path / where)
    log(tmp_path / "plain")
    write(tmp_path / "wandb/offline-run-20240101_000000-abc/run-abc.wandb", b":W&B")
    write(tmp_path / "out/2026-01-01_aaaaa/tracker/config.yaml", SIDECAR)
    write(tmp_path / "runs/net_20240101_000000/config.json", "{}")
    assert runs(tmp_path) == ["plain"]
    for path in (tmp_path / where, (tmp_path / where).parent):
        if ".cache" not in where:
            assert runs(path) == []


def test_what_only_looks_like_another_kind_is_a_run(tmp_path):
    """Else anybody could hide everybody's runs below a directory that all may write to."""
    write(tmp_path / "tracker/config.yaml", "camera: 7\n")
    write(tmp_path / "stray.wandb", b"")
    write(tmp_path / "net_20240101_000000/config.json", "{}")
    log(tmp_path / "0123456789abcdef0123456789abcdef")
    log(tmp_path / "net_20240101_000000")
    log(tmp_path / "tb" / "exp")
    assert runs(tmp_path) == ["0123456789abcdef0123456789abcdef", "net_20240101_000000", "tb/exp"]


def test_one_walk_serves_each_source_once_and_not_for_long(tmp_path, monkeypatch):
    walks, clock = [], Clock()
    walk = claims._walk
    monkeypatch.setattr(claims, "_walk", lambda path: walks.append(path) or walk(path))
    monkeypatch.setattr(claims.time, "monotonic", clock)
    first, second = tmp_path / "1", tmp_path / "2"
    log(first / "exp")
    log(second / "exp")
    roles = list(claims.Role)
    for number, (path, role) in enumerate([(first, roles[0]), (second, roles[0]), (second, roles[0])], 1):
        claims.find(path, role)
        assert len(walks) == number
    assert claims.find(second, roles[1]) == []
    assert len(walks) == 3
    clock.now = 2.0
    claims.find(second, roles[2])
    assert len(walks) == 4


def test_directories_above_that_may_not_be_read_are_nobodys_business(caplog):
    with unprivileged() as scratch:
        path = scratch / "closed" / "logs"
        log(path / "exp")
        (scratch / "closed").chmod(0o111)
        assert runs(path) == ["exp"]
        (scratch / "closed").chmod(0o755)
    assert caplog.text == ""


def test_links_are_not_followed(tmp_path):
    log(tmp_path / "real" / "exp")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real" / "exp")
    write(tmp_path / "secret", (tmp_path / "real" / "exp" / NAME).read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / NAME).symlink_to(tmp_path / "secret")
    assert runs(tmp_path) == ["real/exp"]


def test_a_copy_is_the_same_run(tmp_path):
    """Two directories with one id: one is bound, the other named, which is not the source's affair."""
    log(tmp_path / "a" / "exp")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / NAME).write_bytes((tmp_path / "a" / "exp" / NAME).read_bytes())
    source = TensorBoardSource()
    found = [ref.source_id for store in source.find(tmp_path) for ref in source.discover(store)]
    assert len(found) == 2
    assert len(set(found)) == 1


def test_the_part_that_is_named_decides(tmp_path):
    for name in ("a", "b", "a/curves"):
        log(tmp_path / "logs" / name)
    source = TensorBoardSource()
    for part, expected in (("logs/a", ["a", "a/curves"]), ("logs/b", ["b"]), ("logs/a/curves", ["a/curves"])):
        (store,) = source.find(tmp_path / part)
        assert store.root == tmp_path / "logs"
        found = [str(ref.path.relative_to(store.root)) for ref in source.discover(store, tmp_path / part)]
        assert sorted(found) == expected


def test_all_kinds_beneath_one_directory_are_found_by_all_sources(tmp_path):
    make_run(tmp_path / "mlruns")
    log(tmp_path / "tb" / "exp")
    log(tmp_path / "out" / "2026-01-01_aaaaa" / "runs")
    write(tmp_path / "out/2026-01-01_aaaaa/tracker/config.yaml", SIDECAR)
    log(tmp_path / "runs" / "net_20240101_000000" / "tensorboard")
    write(tmp_path / "runs/net_20240101_000000/config.json", "{}")
    found = {
        kind: [str(ref.path.relative_to(tmp_path)) for store in source.find(tmp_path) for ref in source.discover(store)]
        for kind, source in load_sources().items()
    }
    assert {kind: paths for kind, paths in found.items() if paths} == {
        "mlflow-file": ["mlruns/7/0123456789abcdef0123456789abcdef"],
        "tensorboard": ["tb/exp"],
        "noether": ["out/2026-01-01_aaaaa"],
        "batteryml": ["runs/net_20240101_000000"],
    }


class TestListings:
    @pytest.fixture
    def clock(self, monkeypatch):
        clock = Clock()
        monkeypatch.setattr(claims.time, "monotonic", clock)
        return clock

    @pytest.fixture
    def counted(self, monkeypatch):
        listed = []
        names_in = claims.names_in
        monkeypatch.setattr(claims, "names_in", lambda path: listed.append(path) or names_in(path))
        return listed

    def test_what_has_not_changed_for_a_while_is_not_listed_again(self, tmp_path, clock, counted):
        listings = claims.Listings()
        for now, times in ((0, 1), (1, 2), (2.5, 3), (4, 3), (60, 3), (63, 4)):
            clock.now = now
            listings.names(tmp_path)
            assert len(counted) == times, now

    def test_a_change_shows_at_once(self, tmp_path, clock):
        listings = claims.Listings()
        for clock.now in (0, 3, 6):
            assert listings.names(tmp_path).files == []
        write(tmp_path / NAME)
        os.utime(tmp_path, (1, 1))
        assert listings.names(tmp_path).files == [NAME]
        assert listings.role(tmp_path) is claims.Role.TENSORBOARD

    def test_a_passing_error_is_no_empty_directory(self, tmp_path, monkeypatch):
        log(tmp_path / "logs" / "exp")
        source = TensorBoardSource()
        (store,) = source.find(tmp_path)
        names_in = claims.names_in

        def failing(path):
            if path.name == "logs":
                raise OSError(5, "Input/output error", str(path))
            return names_in(path)

        monkeypatch.setattr(claims, "names_in", failing)
        with pytest.raises(NotSettledError):
            list(source.discover(store))
