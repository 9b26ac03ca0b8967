"""Sizes and depths that are to exhaust memory or time: refused or held, said, and the others go on."""

import json
import os

import pytest
from hostile import MEMORY, run

from rawstore import RUNNING, RawStore, points, write

GB, TB = 1 << 30, 1 << 40
pytestmark = pytest.mark.slow

HOLLOW = "a large file with nothing in it: not read"


def hollow(path, size):
    """A file of that size, of which next to nothing lies on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)


def meta(text):
    """A trick that puts something before all that meta.yaml holds."""

    def play(run):
        path = run.path / "meta.yaml"
        path.write_text(text + path.read_text().replace("tags: []\n", ""))

    return play


def hollow_and_live(run):
    run.change(status=RUNNING)
    hollow(run.path / "metrics/loss", TB)


BOMB = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else 'x'}]\n" for n in range(20))
TRICKS = {
    "meta.yaml of 1 GB": (lambda run: hollow(run.path / "meta.yaml", GB), "held", "is larger than"),
    "experiment of 1 GB": (lambda run: hollow(run.path.parent / "meta.yaml", GB), "held", "is larger than"),
    "dataset of 1 GB": (lambda run: hollow(run.path / "inputs/x/meta.yaml", GB), "done", HOLLOW),
    "aliases": (meta(BOMB), "held", "YAML aliases"),
    "nesting": (meta(f"a: {'[' * 100_000}\n"), "held", "nested too deeply"),
    "an object": (meta('a: !!python/object/apply:os.system ["touch pwned"]\n'), "done", ""),
    "a name of an object": (meta("a: !!python/name:os.system\n"), "done", ""),
    "many fields": (meta("".join(f"k{n}: 1\n" for n in range(80_000))), "done", ""),
    "a name of 900 kB": (lambda run: run.change(run_name="n" * 900_000), "done", ""),
    "a user of 900 kB": (lambda run: run.change(user_id="n" * 900_000), "done", ""),
    "metric of 1 TB": (lambda run: hollow(run.path / "metrics/loss", TB), "done", HOLLOW),
    "live metric of 1 TB": (hollow_and_live, "live", HOLLOW),
    "metric line of 64 MB": (lambda run: run.line("loss", b"1" * (1 << 26)), "done", "torn last line"),
    "metric line of 64 MB, ended": (lambda run: run.line("loss", b"1" * (1 << 26) + b"\n"), "done", "1 unparsable"),
    "tag of 1 TB": (lambda run: hollow(run.path / "tags/note", TB), "done", HOLLOW),
    "param of 1 TB": (lambda run: hollow(run.path / "params/lr", TB), "done", HOLLOW),
    "param of 100 MB": (lambda run: run.param("lr", b"y" * 100_000_000), "done", ""),
    "5,000 directories": (lambda run: [(run.path / f"artifacts/d{n}").mkdir() for n in range(5000)], "done", ""),
    "60 levels": (lambda run: [write(run.path / p / "/".join(["d" * 20] * 60), points(1)) for p in
                               ("params", "tags", "metrics", "artifacts")], "done", ""),
    "20,000 links": (lambda run: [(run.path / f"params/{n}").symlink_to("x") for n in range(20_000)], "done", "a link"),
}  # fmt: skip


@pytest.fixture(scope="module")
def played(server, tmp_path_factory):
    """All tricks in one store, pushed once by a process of its own; and how that ended."""
    root = tmp_path_factory.mktemp("sizes")
    store = RawStore(root / "mlruns")
    good = store.run("hostile sizes: good", metrics={"loss": points(3)})
    runs = {}
    for name, (play, _, _) in TRICKS.items():
        runs[name] = store.run(f"hostile sizes: {name}", metrics={"loss": points(3)})
        play(runs[name])
    options = ("--to", server.url, "--settle", "0s", "--state-dir", root / "state", "--json")
    done = run("push", *options, store.root)
    outcomes = {outcome["source_id"]: outcome for outcome in json.loads(done.out)["runs"]}
    return done, outcomes, runs, good, options


def test_neither_memory_nor_time_is_passed(played):
    done, outcomes, _, good, _ = played
    assert done.code == 5
    assert done.peak < MEMORY
    assert done.seconds < 90, done.seconds
    assert outcomes[good.id]["state"] == "done"
    assert not os.path.exists("pwned")


@pytest.mark.parametrize("name", TRICKS)
def test_it_is_said(played, name):
    _, outcomes, runs, _, _ = played
    _, state, said = TRICKS[name]
    outcome = outcomes[runs[name].id]
    assert outcome["state"] == state, outcome["notes"]
    assert said in "\n".join(outcome["notes"])
    assert bool(said) == bool(outcome["notes"])
    assert len(json.dumps(outcome)) < 20_000
