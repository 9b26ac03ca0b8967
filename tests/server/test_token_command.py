"""`--token-command`: a token that ends on the way is replaced, without a word about it and without loss."""

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from oracle import assert_equal
from proxy import Rule
from rawstore import RawStore, points, write
from tracksync.cli import main


def tracksync(*arguments):
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


@pytest.fixture
def store(tmp_path):
    return RawStore(tmp_path / "mlruns")


@pytest.fixture
def renew(tmp_path):
    """A command that gives n1, n2, n3 ... in turn."""
    count = tmp_path / "count"
    return f"sh {write(tmp_path / 'renew', f'printf x >> {count}; printf n; wc -c < {count}')}"


def test_tokens_that_end_between_two_requests_are_renewed(store, guarded, server, experiment_name, renew):
    store.run(experiment_name, metrics={"loss": points(2500)}, artifacts={"a.txt": "x"})
    proxy = guarded("Bearer n1")

    def end(handler, seen):
        number = len(used) + 2
        used.append(seen.headers["Authorization"])
        proxy.accepted = {f"Bearer n{number}"}
        handler.reply(seen, 401, {}, b"expired")

    used = []
    proxy.rules.insert(0, Rule(end, "log-batch", None, 1, 1))
    proxy.rules.insert(0, Rule(end, "runs/update", None, 1, 1))
    done = tracksync("push", "--to", proxy.url, "--token-command", renew, store.root)
    assert (done.exit_code, done.stderr) == (0, "")
    assert used == ["Bearer n1", "Bearer n2"]
    assert_equal([store.root], server.url)


def test_the_command_may_renew_the_token_file(store, guarded, server, experiment_name, renew, tmp_path):
    store.run(experiment_name, metrics={"loss": points(5)})
    token = write(tmp_path / "token", "stale")
    token.chmod(0o600)
    proxy = guarded("Bearer n1")
    command = f"sh -c 'umask 077; {renew} > {token}.new; mv {token}.new {token}'"
    config = write(tmp_path / "config.toml", f'to = "{proxy.url}"\ntoken-file = "{token}"\ntoken-command = "{command}"')
    done = tracksync("push", "--config", config, store.root)
    assert (done.exit_code, done.stderr) == (0, "")
    assert token.read_text() == "n1\n"
    assert_equal([store.root], server.url)


@pytest.mark.parametrize(("code", "ends"), [(1, 3), (75, 75)])
def test_a_command_without_a_token_ends_a_push_in_one_line(store, server, experiment_name, code, ends):
    store.run(experiment_name)
    command = f"sh -c 'echo s3cret; echo s3cret >&2; exit {code}'"
    done = tracksync("push", "--to", server.url, "--token-command", command, store.root)
    assert done.exit_code == ends
    assert done.stderr.count("\n") == 1
    assert "token command sh" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    assert not MlflowClient(server.url).get_experiment_by_name(experiment_name)
