"""Whatever a key or a path is called, there is a name near it that every server takes and keeps as it is."""

import io
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksync.destination import Limits
from tracksync.mlflow_server.naming import LONGEST_PATH, legal_key, legal_path, legal_text
from tracksync.model import Point

LEGAL_KEYS = ["a", "a/b/c", "train loss", "x.y-z_0", ".hidden", "a..b", "é/ü", "层", "k" * 250, "_", " a ", "a:b"]
ILLEGAL_KEYS = [
    *("", "/", "//", "a//b", "/a", "a/", ".", "..", "../a", "a/..", "a/./b", "..a", "...", "./a"),
    *(
        "a@b",
        "100%",
        "a,b",
        "[x]",
        "a\tb",
        "a\nb",
        "a\n",
        "a\\b",
        "a#b",
        "a?b",
        "a=b",
        "π²",
        "a'b",
        'a"b',
        "\0",
        "\udcff",
    ),
    *("k" * 251, "/".join("abc" for _ in range(100)), "é" * 400),
]
LEGAL_PATHS = [
    *(
        "a.txt",
        "deep/er/and/deeper.bin",
        "with space.txt",
        " lead",
        "trail ",
        "é/ü 层.png",
        "a+b&c=d,e@f!g$h'i(j)[k]{l}~",
    ),
    *(
        "a?b.txt",
        "a;b.txt",
        "a:b.txt",
        "dir:x/a",
        ".hidden",
        "..a",
        "a..b",
        "-",
        "x" * 255,
        "*",
        '"quoted"',
        "a|b<c>^`",
    ),
]
ILLEGAL_PATHS = [
    *(
        "",
        "a//b",
        "/a",
        "a/",
        ".",
        "..",
        "a/../b",
        "a#b",
        "#",
        "100%",
        "a%20b",
        "a%2Fb",
        "a%252Fb",
        "%",
        "a\nb",
        "a\tb",
    ),
    *("a\\b", "C:/x", "c:/x", "C:\\x", "file:x", "FILE:x", "http://x/y", "A:b", "end?", "end;", "dir;/end?", "a;?b"),
    *(
        "x" * 256,
        "é" * 200,
        "x\0y",
        "\x7f",
        "\x85",
        "\u2028",
        "\udcff.txt",
        ".artifact.uploading.abc",
        "a/.artifact.uploading.b",
    ),
    *("/".join(["directory" * 20] * 20) + "/name.txt", " :x"),
]
ANY_TEXT = st.text(st.characters() | st.sampled_from("/.:% #?;\\\n_-\udcff"), max_size=300)


def the_server_takes_key(key, *, colon):
    """The rules of mlflow/utils/validation.py, written down a second time."""
    parts = key.split("/")
    allowed = r"[/\w.\- :]+" if colon else r"[/\w.\- ]+"
    return bool(
        re.fullmatch(allowed, key) and len(key) <= 250 and not {"", ".", ".."} & set(parts) and not key.startswith("..")
    )


@pytest.mark.parametrize("key", LEGAL_KEYS)
def test_a_legal_key_stays(key):
    assert legal_key(key, Limits()) == key


@pytest.mark.parametrize("path", LEGAL_PATHS)
def test_a_legal_path_stays(path):
    # A name that begins with a space or looks like a drive is one for a listing alone, so these two may be replaced.
    assert legal_path(path) == path or path in (" lead", "dir:x/a")


@given(ANY_TEXT, st.booleans())
def test_every_key_becomes_legal_and_a_legal_one_stays(key, colon):
    legal = legal_key(key, Limits(colon_in_key=colon))
    assert the_server_takes_key(legal, colon=colon)
    assert (legal == key) == the_server_takes_key(key, colon=colon)
    assert legal_key(legal, Limits(colon_in_key=colon)) == legal


@given(ANY_TEXT)
def test_every_path_becomes_legal_and_stays_so(path):
    legal = legal_path(path)
    assert legal_path(legal) == legal
    assert not set("#%\\\n\0\udcff") & set(legal)
    assert len(legal.encode()) <= LONGEST_PATH + 9 + 255
    assert all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in legal.split("/"))


def test_different_names_stay_different():
    alphabet = ["a", "_", "%", "#", "?", ";", "é", ".", " ", "@", "\n"]
    names = ["".join(t) for n in (1, 2, 3, 4) for t in itertools.product(alphabet, repeat=n)]
    long = ["x" * 300 + str(i) for i in range(2000)]
    for legal in (legal_path, lambda key: legal_key(key, Limits())):
        assert len({legal(name) for name in names + long}) == len(names) + len(long)


def test_a_replaced_path_keeps_directory_and_suffix():
    first, second = legal_path("plots #1/loss%.png"), legal_path("plots #1/b.png")
    assert first.endswith(".png")
    assert first.split("/")[0] == second.split("/")[0]
    assert second.endswith("/b.png")


def test_text_without_what_servers_cannot_hold():
    assert legal_text("é\n\U0001f600") == "é\n\U0001f600"
    assert legal_text("a\0b") == "a\ufffdb"
    assert legal_text("a\udcffb") == "a\ufffdb"
    assert legal_text("\ud83d\ude00") == "\U0001f600"


def test_servers_take_every_key(new_run, destination, client):
    run = new_run()
    keys = {destination.legal_key(key): key for key in LEGAL_KEYS + ILLEGAL_KEYS}
    assert len(keys) == len(LEGAL_KEYS + ILLEGAL_KEYS)
    destination.log_metrics(run.run_id, [(key, Point(1, 1.0, 1)) for key in keys])
    destination.log_params(run.run_id, [(key, "v") for key in keys])
    destination.set_tags(run.run_id, [(key, "v") for key in keys])
    data = client.get_run(run.run_id).data
    assert set(data.metrics) == set(data.params) == set(keys)
    assert set(keys) <= set(data.tags)


def test_servers_keep_every_path_as_it_is(new_run, destination, any_server):
    run = new_run()
    # Empty components do not come from a file system; here they would want a directory where another wants a file.
    originals = [path for path in LEGAL_PATHS + ILLEGAL_PATHS if "" not in path.split("/")]
    paths = sorted({destination.legal_path(path) for path in originals})
    assert len(paths) == len(originals)
    for number, path in enumerate(paths):
        destination.put_artifact(run, path, io.BytesIO(b"x" * number), number)
    root = Path(any_server.directory, "artifacts", run.experiment_id, run.run_id, "artifacts")
    on_disk = {str(p.relative_to(root)): p.stat().st_size for p in root.rglob("*") if p.is_file()}
    assert on_disk == {path: number for number, path in enumerate(paths)}
    assert destination.list_artifacts(run) == on_disk
