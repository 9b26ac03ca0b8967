"""`tracksync prune --yes` killed at any instant: runs are whole, or gone and whole on the server."""

import signal

import pytest
from test_prune import deliver, listing, pruned, store, whole_server  # noqa: F401 - a fixture

from oracle import found
from rawstore import points
from tracksync.prune import removal


@pytest.mark.slow
def test_killed_at_any_instant_it_has_removed_nothing_but_whole_runs(forge, server, store, experiment_name, state_dir):  # noqa: F811
    runs = [store.run(experiment_name, metrics={"loss": points(5)}, artifacts={"a": b"a"}) for _ in range(3)]
    deliver(server, store.root)
    before = {run.id: (listing(run.path), whole_server(server, run)) for run in runs}
    killed = 0
    for pause in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8):
        child = forge.start("prune", store.root, "--yes", "--to", server.url, "--settle", "0", "--state-dir", state_dir)
        child.sleep(pause)
        child.send(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        for run in runs:
            assert not run.path.exists() or listing(run.path) == before[run.id][0]
    result = pruned(server, store.root)
    assert result.exit_code == 0, result
    assert not any(run.path.exists() for run in runs)
    assert not removal.trash_of(store.root).exists()
    assert killed
    for run in runs:
        assert len(found(server.url, run.id)) == 1
        assert whole_server(server, run) == before[run.id][1]
