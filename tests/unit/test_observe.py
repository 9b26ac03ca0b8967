"""Events as hints: bounded in number, in threads and in what is kept of them."""

import threading

import pytest

from tracksync.watcher import observe
from tracksync.watcher.observe import MOST_WATCHED, Hints
from waiting import until


@pytest.fixture
def said():
    return []


@pytest.fixture
def hints(said, monkeypatch):
    monkeypatch.setattr(observe, "is_local", lambda _: True)  # wherever the tests' directory lies
    hints = Hints(said.append)
    yield hints
    hints.close()


def heard(hints):
    """All that events name until nothing more comes."""
    paths = set()
    while new := hints.wait(0.3)[0]:
        paths |= set(new)
    return paths


def test_a_change_in_a_directory_that_is_followed_is_heard_and_no_other(hints, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for directory in (one, other):
        directory.mkdir()
    hints.follow([one])
    (other / "b").write_text("b")
    (one / "a").write_text("a")
    assert str(one / "a") in until(lambda: hints.wait(0.5)[0])
    hints.follow([other])
    heard(hints)
    (one / "a").write_text("again")
    (other / "b").write_text("again")
    found = until(lambda: heard(hints))
    assert str(other / "b") in found
    assert str(one / "a") not in found


def test_the_most_important_directories_are_watched_with_few_threads(hints, tmp_path, said):
    directories = [tmp_path / str(number) for number in range(MOST_WATCHED + 40)]
    for directory in directories:
        directory.mkdir()
    before = threading.active_count()
    hints.follow(directories)
    assert threading.active_count() - before <= MOST_WATCHED + 4
    (directories[-1] / "last").write_text("")
    (directories[0] / "first").write_text("")
    assert str(directories[0] / "first") in heard(hints)
    hints.follow(directories[-2:])
    heard(hints)
    (directories[-1] / "last").write_text("again")
    assert str(directories[-1] / "last") in heard(hints)
    assert said == []


def test_a_directory_that_has_vanished_or_is_none_hinders_no_other(hints, tmp_path, said):
    (tmp_path / "there").mkdir()
    hints.follow([tmp_path / "gone", tmp_path / "there"])
    (tmp_path / "there" / "a").write_text("")
    assert str(tmp_path / "there" / "a") in heard(hints)
    assert said == []


def test_more_events_than_are_kept_are_a_reason_to_look_at_all(hints, tmp_path, said, monkeypatch):
    monkeypatch.setattr(observe, "MOST_PATHS", 5)
    hints.follow([tmp_path])
    for number in range(20):
        (tmp_path / str(number)).write_text("")
    until(lambda: hints.wait(0.5)[1])
    for number in range(20):
        (tmp_path / str(number)).write_text("again")
    until(lambda: hints.wait(0.5)[1])
    assert len(said) == 1
    assert "events of the file system were lost" in said[0]
    heard(hints)
    assert hints.wait(0.01) == ([], False)
