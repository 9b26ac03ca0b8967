"""How values are spelled, token files, and what reaches the terminal."""

import os
import time
from pathlib import Path

import click
import pytest

from tracksync.cli.figures import size_of
from tracksync.cli.token import LIMIT
from tracksync.cli.tokenfile import TokenFile
from tracksync.cli.values import Duration, Place, Size, Template
from tracksync.errors import ConfigError, clean


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), (90, 90), ("10s", 10), ("1.5m", 90), ("2h", 7200), ("7d", 604800), ("1W", 604800), (" 3 s ", 3)],
)
def test_time_spans(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1y", "1 2", "nan", "inf", True, None, [1], "1e400", "9" * 400])
def test_what_is_no_time_span(text):
    with pytest.raises(click.BadParameter, match="not a time span"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (12, 12), ("4096", 4096), ("100MB", 10**8), ("1.5k", 1500), ("1GiB", 2**30), ("2 tb", 2e12)],
)
def test_sizes(text, size):
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1PB", "1 MB 2", False])
def test_what_is_no_size(text):
    with pytest.raises(click.BadParameter, match="not a size"):
        Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b", "a/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("file:./mlruns", "mlruns"),
        ("a%20b", "a%20b"),
        ("http:/x", "http:/x"),
    ],
)
def test_paths_and_file_uris(text, path):
    assert str(Place().convert(text, None, None)) == path


def test_home_directories(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(Place().convert("~/a", None, None)) == "/home/me/a"


@pytest.mark.parametrize("text", ["", "file://other/a", "a\0b", 3, "~no-such-user-here/x"])
def test_what_is_no_path(text):
    with pytest.raises(click.BadParameter):
        Place().convert(text, None, None)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "token"
    path.write_text("first\n")
    path.chmod(0o600)
    return path


def test_a_token_is_read_again_when_its_file_changes(file):
    token = TokenFile(file)
    assert token() == "first"
    file.write_text("second, longer".replace(", ", "-"))
    assert token() == "second-longer"


def test_a_token_of_the_same_length_is_seen_too(file):
    token = TokenFile(file)
    assert token() == "first"
    file.write_text("other\n")
    os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns + 1))
    assert token() == "other"


def test_a_file_that_is_being_rewritten_keeps_its_last_token(file):
    token = TokenFile(file)
    assert token() == "first"
    file.write_text("")
    assert token() == "first"
    file.write_text("next")
    assert token() == "next"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_a_token_that_others_may_read_is_refused(file, mode):
    file.chmod(mode)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        TokenFile(file)()
    assert caught.value.hint == f"run: chmod 600 {file}"


def test_permissions_that_become_too_wide_are_noticed(file):
    token = TokenFile(file)
    token()
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        token()


@pytest.mark.parametrize("text", ["two tokens", "two\ntokens", "caf\u00e9", "x" * (LIMIT + 1), "a\0b"])
def test_what_is_no_token_is_refused_and_never_shown(file, text):
    file.write_text(text)
    with pytest.raises(ConfigError, match="does not hold one token") as caught:
        TokenFile(file)()
    assert text not in caught.value.line


def test_no_token_at_all(file, tmp_path):
    file.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        TokenFile(file)()
    with pytest.raises(ConfigError, match="No such file"):
        TokenFile(tmp_path / "missing")()
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="not a regular file"):
        TokenFile(tmp_path)()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_600, "100 kB"), (1_500_000, "1.5 MB"), (999_600, "1.0 MB"),
     (3 * 10**9, "3.0 GB"), (5 * 10**15, "5,000.0 TB")],
)  # fmt: skip
def test_sizes_for_a_person(size, text):
    assert size_of(size) == text


def test_control_characters_are_replaced_and_letters_kept():
    assert clean("a\x1b]0;x\x07\r\nb\u202eé") == "a\ufffd]0;x\ufffd\ufffd\ufffdb\ufffdé"


@pytest.mark.parametrize("text", ["plain", "{a}/{b}", "{{a}}", "x{b}"])
def test_templates(text):
    assert Template("a", "b").convert(text, None, None) == text


@pytest.mark.parametrize("text", ["", "{c}", "{", "}", "{}", "{0}", "{a.x}", "{a!r}", "{a:>9}"])
def test_what_is_no_template(text):
    with pytest.raises(click.BadParameter):
        Template("a", "b").convert(text, None, None)


@pytest.mark.parametrize(
    ("uri", "path"),
    [("sqlite:////a/b.db", "/a/b.db"), ("sqlite:///b%20c.db", "b c.db"), ("sqlite+pysqlite:////a.db?x=1", "/a.db")],
)
def test_a_databases_address_is_a_path(uri, path):
    assert Place().convert(uri, None, None) == Path(path)


def test_a_database_on_another_host_is_none():
    with pytest.raises(click.BadParameter, match="another host"):
        Place().convert("sqlite://host/b.db", None, None)
