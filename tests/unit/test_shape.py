"""Which runs and artifacts the filters take, how rules are spelled and ordered, and what a limit of the rate does."""

import io
import json
import threading

import click
import pytest

from tracksync import linkfile
from tracksync.bandwidth import Bandwidth
from tracksync.cli import configfile, options
from tracksync.cli.settings import shape_for
from tracksync.linkfile import Link
from tracksync.shape import Rule, Shape, path_matches, takes


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("*.ckpt", "best.ckpt", True),
        ("*.ckpt", "a/b/best.ckpt", True),
        ("*.ckpt", "best.ckpt.txt", False),
        ("*.zarr", "out/x.zarr/0/0.1", True),  # a directory means all that lies in it
        ("ckpt", "a/ckpt/1.pt", True),
        ("ckpt", "a/ckpts/1.pt", False),
        ("ckpt/", "ckpt", False),
        ("ckpt/", "a/ckpt/1", True),
        ("/ckpt", "a/ckpt/1", False),
        ("/ckpt", "ckpt/1", True),
        ("a/*.x", "a/b.x", True),
        ("a/*.x", "a/b/c.x", False),
        ("a/**.x", "a/b/c.x", True),
        ("a/**/c.x", "a/c.x", True),
        ("a/**/c.x", "a/b/b/c.x", True),
        ("?.t", "a.t", True),
        ("a?b", "a/b", False),
        ("[ab].t", "c/b.t", True),
        ("[!ab].t", "a.t", False),
        ("[!ab].t", "c.t", True),
        ("weird[", "weird[", True),
        ("a.b", "axb", False),
        ("new\nline*", "new\nline.txt", True),
    ],
)
def test_globs_of_paths(glob, path, matches):
    assert path_matches(glob, path) is matches


@pytest.mark.parametrize(
    ("rules", "taken"),
    [
        ("", "abc"),
        ("+a", "a"),  # rclone: the rest is left out
        ("-a", "bc"),
        ("+a -*", "a"),  # rsync
        ("-a +*", "bc"),
        ("+a -[ab]", "ac"),  # rsync: an exception from what follows
        ("-a +[ab]", "b"),
        ("+a +b", "ab"),
    ],
)
def test_the_first_rule_that_matches_decides_and_else_the_opposite_of_the_last(rules, taken):
    known = [Rule(word[0] == "+", "run", word[1:]) for word in rules.split()]
    shape = Shape(rules=tuple(known))
    found = [n for n in "abc" if shape.takes_run(experiment="e", name=n, status="FINISHED", tags={})]
    assert "".join(found) == taken
    assert takes((), lambda _: False)


def test_rules_of_different_kinds_have_all_to_let_a_run_pass():
    shape = shape_of("--include", "experiment:era*", "--exclude", "status:failed", "--include", "tag:team=ocean")
    facts = {"experiment": "era5", "name": "x", "status": "FINISHED", "tags": {"team": "ocean"}}
    assert shape.takes_run(**facts)
    for other in ({"experiment": "cerra"}, {"status": "FAILED"}, {"tags": {}}, {"tags": {"team": "land"}}):
        assert not shape.takes_run(**(facts | other))
    assert shape.takes_file("a", 10**12), "rules for runs say nothing of artifacts"
    assert shape.tag_keys == {"team"}


def test_sizes():
    shape = Shape(max_size=10, rules=(Rule(False, "artifact", "*.log"),))
    assert [shape.takes_file(*f) for f in (("a", 10), ("a", 11), ("a.log", 1))] == [True, False, False]


def shape_of(*arguments, config=None, table=None):
    """What the shape comes to on a command line."""
    found = []

    @click.command(cls=options.Ordered)
    @options.combine(options.shaping, options.config)
    @click.pass_context
    def command(ctx, **_):
        found.append(shape_for(ctx, table or {}))

    command.main([*(("--config", str(config)) if config else ()), *arguments], standalone_mode=False)
    return found[0]


def test_the_order_across_include_and_exclude_is_that_of_the_command_line():
    words = ["--exclude", "a", "--include=b", "--exclude", "c", "--include", "run:d"]
    rules = shape_of(*words).rules
    assert [(r.include, r.kind, r.glob) for r in rules] == [
        (False, "artifact", "a"),
        (True, "artifact", "b"),
        (False, "artifact", "c"),
        (True, "run", "d"),
    ]


def test_a_place_that_gives_rules_replaces_those_of_the_next(tmp_path, monkeypatch):
    file = tmp_path / "config.toml"
    file.write_text('exclude = ["x"]\ninclude = "y"\nredact = ["a*"]\ntag = ["k=v=w"]\nmax-size = "1kB"\n')
    plain = shape_of(config=file)
    assert [(r.include, r.glob) for r in plain.rules] == [(True, "y"), (False, "x")]
    assert (plain.redact, plain.tags, plain.max_size) == (("a*",), (("k", "v=w"),), 1000)
    table = {"include": (Rule(True, "artifact", "t"),), "no_source_path": True, "max_size": 5}
    there = shape_of(config=file, table=table)
    assert [(r.include, r.glob) for r in there.rules] == [(True, "t")]
    assert (there.source_path, there.max_size, there.redact) == (False, 5, ("a*",))
    monkeypatch.setenv("TRACKSYNC_EXCLUDE", "one;experiment:with blanks")
    there = shape_of(config=file, table=table)
    assert [(r.kind, r.glob) for r in there.rules] == [("artifact", "one"), ("experiment", "with blanks")]
    assert [r.glob for r in shape_of("--include", "z", config=file, table=table).rules] == ["z"]
    assert shape_of("--max-size", "7", config=file, table=table).max_size == 7


def test_store_tables_take_them(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[[store]]\npath = "/a"\nexclude = ["*.ckpt"]\nlink-over = "1GB"\ntag = ["a=b"]\n')
    [table] = configfile.load(file).stores
    assert table.shape == {
        "exclude": (Rule(False, "artifact", "*.ckpt"),),
        "link_over": 10**9,
        "tag": (("a", "b"),),
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--include", ""), "is no rule"),
        (("--include", "tag:"), "is no rule"),
        (("--exclude", "experimnt:x"), "kinds are artifact, experiment"),
        (("--tag", "novalue"), "not KEY=VALUE"),
        (("--tag", "tracksync.claim=x"), "not a tag that can be given"),
        (("--tag", "mlflow.parentRunId=x"), "not a tag that can be given"),
        (("--redact", " "), "is not text"),
    ],
)
def test_what_is_no_value_is_said(words, said):
    with pytest.raises(click.BadParameter, match=said):
        shape_of(*words)


def test_rates():
    rate = configfile.KEYS["bwlimit"]
    assert [rate.convert(t, None, None) for t in ("10MB", "1MiB/s", "500k", 100)] == [10**7, 1 << 20, 500_000, 100]
    for text in ("100", "0B", "x", ""):
        with pytest.raises(click.BadParameter):
            rate.convert(text, None, None)


def test_all_senders_of_a_limit_together_send_no_more_than_it_allows():
    """Threads on a clock of their own: whatever waits, waits until what was sent before is paid for."""
    lock, slept = threading.Lock(), []

    def sleep(seconds):
        with lock:
            slept.append(seconds)

    limit = Bandwidth(1000, clock=lambda: 0.0)
    threads = [threading.Thread(target=lambda: [limit.take(100, sleep) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 40 times 100 bytes at 1000 bytes a second: one every tenth of a second, the first at once
    assert sorted(slept) == pytest.approx([n / 10 for n in range(1, 40)])


def test_a_link_says_what_it_leads_to_and_how_long_it_is():
    link = Link("/a/ü.bin", 3)
    text = linkfile.document(link, linkfile.digest(io.BytesIO(b"abcd"), 3))
    assert len(text) == linkfile.length(link)
    found = json.loads(text)
    assert found["path"] == "/a/ü.bin"
    assert found["size"] == 3
    assert found["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InterruptedError):
        linkfile.digest(io.BytesIO(b"abcd"), 3, lambda: False)
