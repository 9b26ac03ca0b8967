"""What every MLflow version wrote arrives at every server version, with every MLflow that tracksync may use.

`make test-matrix` tries all combinations and leaves RESULTS.md; otherwise each two of store, server and client meet.
"""

import subprocess
from types import SimpleNamespace

import pytest
from cells import CLIENTS, NEWEST, PAIRS, SERVERS, STORES, make, mlflow_command, stores_of, tracksync_command
from mlflow.entities import ViewType
from results import Results

from oracle import client_of, differences, found, source_runs
from servers import MlflowServerProcess

pytestmark = pytest.mark.slow

CELLS = [((server, client), store) for server, client in PAIRS for store in stores_of(server, client)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The path of each store, and MLflow's client for it, made when asked for: nothing writes into them."""
    made = {}

    def get(store):
        if store not in made:
            path = make(store, tmp_path_factory.mktemp("stores") / "-".join(store))
            made[store] = SimpleNamespace(path=path, client=client_of(path))
        return made[store]

    return get


@pytest.fixture(scope="module")
def results():
    """What came of each combination; a whole run leaves it in RESULTS.md."""
    found = Results()
    yield found
    found.write()


@pytest.fixture(scope="module")
def pushed(request, tmp_path_factory, stores):
    """A new server to which all its stores were pushed in one go."""
    server, client = request.param
    command, directory = tracksync_command(client), tmp_path_factory.mktemp(f"{server}-{client}")
    paths = [stores(store).path for store in stores_of(server, client)]
    with MlflowServerProcess(directory, mlflow_command(server)) as process:
        options = ["--to", process.url, "--settle", "0s", "--state-dir", directory / "state"]
        done = subprocess.run(
            [*map(str, [command, "push", *options, *paths])], capture_output=True, text=True, check=False, timeout=200
        )
        yield SimpleNamespace(url=process.url, names=(server, client), done=done)


@pytest.mark.parametrize(("pushed", "store"), CELLS, indirect=["pushed"], scope="module", ids="-".join)
def test_a_store_arrives(pushed, store, stores, results):
    source = stores(store)
    lines = differences([source.path], pushed.url, readers={source.path: source.client})
    # What the server is too old for is kept for later, and said: models, or what was measured of one as NaN.
    server = pushed.names[0]
    parts = ("models", "measured", "outputs", "inputs") if server.startswith("2.") else ("measured",)
    late = [line for line in lines if server != "newest" and any(f") {part}: source" in line for part in parts)]
    lines = [line for line in lines if line not in late]
    results.add(*pushed.names, store, lines, late)
    if late:
        assert store[1].startswith("3.")
    if server.startswith("2."):
        assert bool(late) == store[1].startswith("3.")
    assert pushed.done.returncode == 0, pushed.done
    assert not lines, "\n".join(lines)
    assert len(source_runs(source.path, source.client)) == 3


@pytest.mark.parametrize(
    ("pushed", "store"), CELLS[:: len(CELLS) // 8], indirect=["pushed"], scope="module", ids="-".join
)
def test_what_is_deleted_at_the_source_stays_there(pushed, store, stores):
    client = stores(store).client
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    deleted = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY)
    assert deleted
    assert not any(found(pushed.url, run.info.run_id) for run in deleted)


def test_each_two_meet():
    cells = {(*pair, store) for pair, store in CELLS}
    assert {cell[:2] for cell in cells} == {(server, client) for server in SERVERS for client in CLIENTS}
    assert {cell[::2] for cell in cells} == {(server, store) for server in SERVERS for store in STORES}
    assert {cell[1:] for cell in cells} == {(client, store) for client in CLIENTS for store in STORES}
    assert NEWEST in SERVERS
