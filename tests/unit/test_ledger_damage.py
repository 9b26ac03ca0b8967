"""Damaged ledgers, one folder per case in tests/data/ledgers: what is read, what is set aside, what is said."""

import json
import shutil
from pathlib import Path

import pytest

from tracksync.errors import ConfigError
from tracksync.ledger import Ledger

CASES = sorted(path for path in (Path(__file__).parents[1] / "data" / "ledgers").iterdir() if path.is_dir())
TO = "http://server:5000"


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request, tmp_path):
    ledger = Ledger(tmp_path, TO)
    shutil.copytree(request.param / "state", ledger.directory)
    return ledger, json.loads((request.param / "expected.json").read_text())


def _files(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_every_case_is_described():
    assert len(CASES) >= 25
    for path in CASES:
        assert len((path / "README.md").read_text()) > 20


def test_get(case):
    ledger, expected = case
    if "error" in expected:
        with pytest.raises(ConfigError) as caught:
            ledger.get("a" * 32)
        assert expected["error"] in caught.value.line
        return
    found = {run: ledger.get(run) for run in expected["runs"]}
    assert {run: entry and entry.points for run, entry in found.items()} == expected["runs"]


def test_entries_and_what_is_set_aside(case):
    ledger, expected = case
    before = _files(ledger.directory)
    if "error" in expected:
        with pytest.raises(ConfigError) as caught:
            list(ledger.entries())
        assert expected["error"] in caught.value.line
        assert _files(ledger.directory) == before
        return
    found = [(entry.source_id, entry.points) for entry in ledger.entries()]
    assert sorted(found) == sorted((run, points) for run, points in expected["runs"].items() if points is not None)
    after = _files(ledger.directory)
    aside = {name.partition(".damaged-")[0]: data for name, data in after.items() if ".damaged-" in name}
    assert aside == {name: before[name] for name in expected["set_aside"]}
    assert {name for name in after if ".damaged-" not in name} == set(before) - set(expected["set_aside"])


def test_a_commit_mends_it(case):
    ledger, expected = case
    healthy = Ledger(ledger.state_dir / "other", TO)
    shutil.copytree(Path(__file__).parents[1] / "data/ledgers/whole/state", healthy.directory)
    entry = healthy.get("a" * 32)
    entry.points = 99
    if "error" in expected:
        with pytest.raises(ConfigError):
            ledger.take(entry)
        return
    ledger.take(entry)
    ledger.commit(entry)
    again = Ledger(ledger.state_dir, TO)
    assert again.get("a" * 32) == entry
    assert [e for e in again.entries() if e.source_id == entry.source_id] == [entry]
