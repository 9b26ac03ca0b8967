"""Settings: precedence of flag, environment, user file and site file; [[store]] tables; wrong files; destinations."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tracksync.cli import options
from tracksync.cli.configfile import KEYS, load
from tracksync.cli.settings import destination, group_paths
from tracksync.cli.values import Place
from tracksync.errors import ConfigError


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Empty surroundings: no user or site file, no variables of the user's."""
    for name in ("TO", "CONFIG", "STATE_DIR", *(key.upper().replace("-", "_") for key in KEYS)):
        monkeypatch.delenv(f"TRACKSYNC_{name}", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TRACKSYNC_SITE_CONFIG", str(tmp_path / "site.toml"))
    (tmp_path / "config" / "tracksync").mkdir(parents=True)


@pytest.fixture
def user(tmp_path):
    """Writes the user's file."""
    return (tmp_path / "config" / "tracksync" / "config.toml").write_text


@pytest.fixture
def site(tmp_path):
    """Writes the site's file."""
    return (tmp_path / "site.toml").write_text


def groups(*arguments):
    """The groups that a command with the options of push makes of its arguments."""
    found = []

    @click.command()
    @click.argument("paths", nargs=-1, type=Place())
    @options.sending
    @options.retry
    @options.wait
    @options.server_wait
    @options.interval
    @click.pass_context
    def command(ctx, paths, **_):
        found.extend(group_paths(ctx, paths))

    result = CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False, catch_exceptions=False)
    assert result.exception is None
    return found


def one(*arguments):
    """The settings of the only group."""
    (group,) = groups(*arguments)
    return group.settings


def test_flag_over_environment_over_user_file_over_site_file(user, site, monkeypatch):
    site('to = "http://site"\n')
    assert one("p").to == "http://site"
    user('to = "http://user"\n')
    assert one("p").to == "http://user"
    monkeypatch.setenv("TRACKSYNC_TO", "http://environment")
    assert one("p").to == "http://environment"
    assert one("p", "--to", "http://flag").to == "http://flag"


def test_files_are_merged_key_by_key(user, site):
    site('to = "http://site"\nsettle = "2m"\n[experiments]\na = "b"\n')
    user('settle = 3\n[experiments]\nc = "d"\n')
    settings = one("p")
    assert (settings.to, settings.settle, settings.experiment_map) == ("http://site", 3.0, {"c": "d"})


def test_config_option_replaces_the_user_file_but_not_the_site_file(user, site, tmp_path):
    site('settle = "1s"')
    user('to = "http://user"')
    other = tmp_path / "other.toml"
    other.write_text('to = "http://other"')
    settings = one("p", "--config", other)
    assert (settings.to, settings.settle) == ("http://other", 1.0)


def test_every_value_reaches_the_settings(user, tmp_path):
    user('to = "http://x"\nexperiment = "{user}/{experiment}"\nlive-max-size = "1GiB"\nsince = "7d"\ninterval = 2.5\n')
    settings = one("p", "--deleted", "--retry", "--wait", "1m", "--server-wait", "2s", "--state-dir", tmp_path / "s")
    assert settings.experiment == "{user}/{experiment}"
    assert (settings.live_max_size, settings.since, settings.interval) == (2**30, 7 * 86400, 2.5)
    assert settings.deleted
    assert settings.retry
    assert not settings.restore
    assert (settings.lease_wait, settings.server_wait, settings.state_dir) == (60, 2, tmp_path / "s")


def test_defaults_without_any_file(tmp_path):
    settings = one("p", "--to", "http://x/")
    assert settings.to == "http://x"
    assert settings.state_dir == tmp_path / "state" / "tracksync"
    assert (settings.settle, settings.since, settings.server_wait, settings.lease_wait) == (None, None, 60, 600)
    assert (settings.live_max_size, settings.experiment, settings.token) == (100_000_000, "{experiment}", None)


STORES = """
to = "http://main"
[experiments]
x = "y"
[[store]]
path = "{0}/a"
to = "http://a"
experiment = "a-{{experiment}}"
[store.experiments]
old = "new"
[[store]]
path = "{0}/a/b"
to = "http://b"
"""


def test_push_uses_the_innermost_store_table_that_contains_the_path(user, tmp_path):
    user(STORES.format(tmp_path))
    found = groups(tmp_path / "a" / "mlruns", tmp_path / "a" / "b" / "1", tmp_path / "c", tmp_path / "a")
    assert [(g.settings.to, g.paths) for g in found] == [
        ("http://a", [tmp_path / "a" / "mlruns", tmp_path / "a"]),
        ("http://b", [tmp_path / "a" / "b" / "1"]),
        ("http://main", [tmp_path / "c"]),
    ]
    assert [g.settings.experiment for g in found] == ["a-{experiment}", "{experiment}", "{experiment}"]
    assert [g.settings.experiment_map for g in found] == [{"old": "new"}, {"x": "y"}, {"x": "y"}]


def test_without_paths_the_store_tables_are_watched(user, tmp_path):
    user(STORES.format(tmp_path))
    assert [(g.settings.to, g.paths) for g in groups()] == [
        ("http://a", [tmp_path / "a"]),
        ("http://b", [tmp_path / "a" / "b"]),
    ]


def test_flag_and_environment_win_over_a_store_table(user, tmp_path, monkeypatch):
    user(STORES.format(tmp_path))
    assert one("--to", "http://flag", tmp_path / "a").to == "http://flag"
    monkeypatch.setenv("TRACKSYNC_TO", "http://environment")
    assert one(tmp_path / "a").to == "http://environment"


def test_a_store_is_found_through_a_symbolic_link(user, tmp_path):
    user(STORES.format(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert one(tmp_path / "link" / "1").to == "http://a"


def test_a_token_never_goes_to_the_server_of_another_store_table(user, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    user(f'token-file = "{token}"\n{STORES.format(tmp_path).strip()}\n')
    main, other = groups(tmp_path / "c", tmp_path / "a")
    assert main.settings.token() == "secret"
    assert other.settings.token is None
    asked = one("--token-file", token, tmp_path / "a")
    assert asked.token() == "secret"


def test_no_paths_and_no_store_tables():
    with pytest.raises(ConfigError, match="nothing to look at"):
        groups("--to", "http://x")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("to = ", "not valid TOML"),
        ('too = "x"', "too: unknown key; did you mean to?"),
        ('live_max_size = "1MB"', "live_max_size: unknown key; did you mean live-max-size?"),
        ("zzz = 1", "zzz: unknown key; known keys: to, experiment,"),
        ('settle = "5 minutes"', "settle: '5 minutes' is not a time span"),
        ("settle = -1", "settle: -1 is not a time span"),
        ('interval = "0s"', "interval: must be more than 0"),
        ('live-max-size = "big"', "live-max-size: 'big' is not a size"),
        ('deleted = "yes"', "deleted: 'yes' is neither true nor false"),
        ("to = 5", "to: 5 is not text"),
        ('to = ""', "to: must not be empty"),
        ("experiments = 3", "experiments: must be a table"),
        ("path-map = 3", "path-map: must be a table"),
        ('[path-map]\n"old" = "/new"', "path-map: 'old=/new' is not OLD=NEW"),
        ('[path-map]\n"/old" = "new"', "path-map: 'new' is not an absolute path"),
        ("[experiments]\na = 3", "experiments.a: 3 is not a name"),
        ('store = "x"', "store: must be a list of tables; write [[store]]"),
        ('[[store]]\nto = "http://x"', "store[1]: has no path"),
        ('[[store]]\npath = "x"', "store[1].path: x is not absolute"),
        ('[[store]]\npath = "/x"\nfilter = 1', "store[1].filter: unknown key; known keys: path, to,"),
        ('[[store]]\npath = "/x"\n[store.experiments]\na = []', "store[1].experiments.a: [] is not a name"),
    ],
)
def test_a_wrong_file_gives_one_line_with_file_key_and_mistake(tmp_path, text, line):
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.exit_code == 3
    assert caught.value.line.startswith(f"{file}: ")
    assert line in caught.value.line
    assert "\n" not in caught.value.line


def test_a_file_that_was_asked_for_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "missing.toml")


def test_a_file_that_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path)


def test_the_commented_example_is_valid_as_it_is_and_with_every_line_in_use(tmp_path):
    example = Path(__file__).parents[2] / "deploy" / "config.toml"
    assert load(example).options == {}
    used = tmp_path / "used.toml"
    used.write_text("\n".join(line.removeprefix("#") for line in example.read_text().splitlines() if line[:2] != "# "))
    found = load(used)
    assert set(found.options) == set(KEYS) - {
        *("dry-run", "json", "once", "retry", "restore", "report", "quiet", "repair", "recreate", "checksums", "live"),
        *("artifacts-only", "write-manifest", "manifest", "shard"),
    }
    assert found.experiments
    assert len(found.stores) == 2


@pytest.mark.parametrize("uri", ["http://h", "https://h:8080/path", "https://user:pw@h"])
def test_servers_are_taken(uri, monkeypatch):
    assert destination(uri) == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert destination(None) == uri


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:///x.db", "not a server's URL"),
        ("mlruns", "not a server's URL"),
        ("http://", "not a server's URL"),
        ("http://h:port", "not a URL"),
        ("databricks://profile", "Databricks"),
    ],
)
def test_other_destinations_are_refused(uri, reason):
    with pytest.raises(ConfigError, match=reason):
        destination(uri)


@pytest.mark.parametrize("uri", ["mlruns", "file:///x", "sqlite:///x.db", "./a", "postgresql://me:secret@h/db"])
def test_a_tracking_uri_that_names_the_offline_store_is_explained(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="names the offline store, not a server") as caught:
        destination(None)
    assert "--to" in caught.value.hint
    assert "secret" not in caught.value.line
    assert destination("http://x") == "http://x"


def test_no_destination_at_all(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", " ")
    with pytest.raises(ConfigError, match="no destination") as caught:
        destination(None)
    assert "--to" in caught.value.hint


@pytest.mark.parametrize("given", ["htps://user:pw@host/x", "databricks://u:pw@h"])
def test_a_password_in_a_refused_address_is_not_shown(given):
    with pytest.raises(ConfigError) as caught:
        destination(given)
    assert "pw" not in caught.value.line


def test_moved_directories_from_flag_environment_and_file(user, monkeypatch):
    user('[path-map]\n"/a" = "/file"\n"/b" = "/file"\n')
    assert one("--to", "http://x", "p").path_map == {"/a": "/file", "/b": "/file"}
    monkeypatch.setenv("TRACKSYNC_PATH_MAP", "/b=/environment:/c=~/environment")
    assert one("--to", "http://x", "p").path_map == {
        "/a": "/file",
        "/b": "/environment",
        "/c": str(Path("~/environment").expanduser()),
    }
    assert one("--to", "http://x", "--path-map", "/b=/flag", "p").path_map == {"/a": "/file", "/b": "/flag"}


@pytest.mark.parametrize("text", ["/a", "a=/b", "/a=b", "/a="])
def test_a_moved_directory_that_is_none(text):
    with pytest.raises(click.BadParameter):
        groups("--to", "http://x", "--path-map", text, "p")


def test_token_file_and_token_command_come_from_one_place(user, tmp_path):
    token = tmp_path / "token"
    token.write_text("filed")
    token.chmod(0o600)
    table = f'[[store]]\npath = "{tmp_path}"\ntoken-command = ["echo", "table"]\n'
    user(f'to = "http://main"\ntoken-file = "{token}"\ntoken-command = "false"\n{table}')
    assert one(tmp_path).token() == "table"
    assert one("--token-command", "echo given", tmp_path).token() == "given"
    assert one("--token-file", token, tmp_path).token() == "filed"
