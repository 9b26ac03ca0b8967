import os
import shutil

import pytest
from filestore_make import DATA, Clock, deliver, end, make_run, read, run_yaml, write

from tracksync.fsutil import open_regular
from tracksync.model import AllSettled, Cursor, DatasetInput, Looks
from tracksync.sources.filestore.source import FileStoreSource
from tracksync.sources.pathmap import PathMap

LINK_ID = "dd6c54c66a7253306d7c57103d1cf23f"
DATASET_ID = "d50b4599505bd2392631c9dddd53086e"
INPUT = f"destination_type: RUN\nsource_id: {DATASET_ID}\nsource_type: DATASET\ntags: {{a: b, n: null}}\n"
DATASET = "digest: '0123'\nname: my data\nprofile: null\nschema: null\nsource: '{}'\nsource_type: local\n"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


def artifact(run, name, content=b"x"):
    return write(run.path / "artifacts" / name, content)


def paths(delta):
    return sorted(item.path for item in delta.files)


class TestArtifacts:
    def test_any_depth_spaces_unicode_and_empty_files(self, run):
        names = ["/".join(f"d{n}" for n in range(60)) + "/deep.txt", "a b/été ☃.txt", "empty", ".hidden", "a%20b#?.txt"]
        for name in names:
            artifact(run, name, b"" if name == "empty" else name.encode())
        end(run)
        delta = read(run)
        assert paths(delta) == sorted(names)
        for item in delta.files:
            with open_regular(item.root, item.relative) as file:
                assert file.read() == (b"" if item.path == "empty" else item.path.encode())
            assert item.mark == [item.size, item.mtime_ns]

    def test_one_of_a_live_run_goes_when_settled_and_again_when_changed(self, run):
        clock = Clock()
        looks, cursor = Looks(5, clock), Cursor()
        path = artifact(run, "terminal_log.txt", b"1")
        assert (paths(read(run, cursor, looks)), read(run, cursor, looks).waiting) == ([], 1)
        clock.now = 5
        deliver(read(run, cursor, looks), cursor)
        assert read(run, cursor, looks).empty
        path.write_bytes(b"12")
        assert read(run, cursor, looks).waiting == 1
        clock.now = 10
        assert paths(read(run, cursor, looks)) == ["terminal_log.txt"]

    def test_a_change_of_mtime_alone_counts(self, run):
        path = artifact(run, "last.ckpt")
        end(run)
        cursor = Cursor()
        deliver(read(run, cursor), cursor)
        os.utime(path, ns=(1, 1))
        assert paths(read(run, cursor)) == ["last.ckpt"]

    def test_uploads_under_way_are_ignored_and_those_of_rsync_waited_for(self, run):
        artifact(run, "model/.artifact.uploading.abcdefgh")
        artifact(run, "model/.weights.bin.Xy12Zz")
        artifact(run, "model/.rsync-partial/weights.bin")
        artifact(run, "model/.~tmp~/weights.bin")
        artifact(run, "model/.config.json")
        artifact(run, "model/.config.backup")
        delta = read(run, looks=Looks(0))
        assert (paths(delta), delta.waiting) == ([], 5)
        looks = Looks(0)
        read(run, looks=looks)
        delta = read(run, looks=looks)
        assert (paths(delta), delta.waiting) == (["model/.config.json"], 4)
        end(run)
        delta = read(run)
        assert paths(delta) == ["model/.config.backup", "model/.config.json"]
        left = [".rsync-partial/weights.bin", ".weights.bin.Xy12Zz", ".~tmp~/weights.bin"]
        assert sorted(delta.refused) == [f"artifact:model/{name}" for name in left]

    @pytest.mark.parametrize("part", ["params", "tags", "metrics"])
    def test_what_rsync_is_at_is_no_param_no_tag_and_no_metric(self, run, part):
        (run.path / part).mkdir(exist_ok=True)
        for name in (".lr.Xy12Zz", ".rsync-partial/lr", "lr", ".hidden"):
            write(run.path / part / name, "1700000000000 0.5 1\n")
        looks = Looks(0)
        read(run, looks=looks)
        delta = read(run, looks=looks)
        keys = {item.key for item in (*delta.params, *delta.tags, *delta.metrics)} - {"mlflow.runName"}
        assert (keys, delta.waiting) == ({"lr", ".hidden"}, 2)
        end(run)
        assert {name.partition(":")[2] for name in read(run).refused} == {".lr.Xy12Zz", ".rsync-partial/lr"}

    def test_links_and_special_files_are_refused_never_followed(self, run, tmp_path):
        write(tmp_path / "secret" / "key", "s")
        artifact(run, "good")
        os.symlink(tmp_path / "secret" / "key", run.path / "artifacts" / "file")
        os.symlink(tmp_path / "secret", run.path / "artifacts" / "directory")
        os.symlink(tmp_path / "nowhere", run.path / "artifacts" / "dangling")
        os.mkfifo(run.path / "artifacts" / "fifo")
        artifact(run, os.fsdecode(b"latin-\xe9"))
        end(run)
        delta = read(run)
        assert paths(delta) == ["good"]
        names = ["dangling", "directory", "fifo", "file", "latin-\\udce9"]
        assert sorted(delta.refused) == [f"artifact:{name}" for name in names]

    @pytest.mark.parametrize("place", ["link", "file"])
    def test_an_artifacts_directory_that_is_none_is_refused(self, run, tmp_path, place):
        write(tmp_path / "secret" / "key", "s")
        if place == "link":
            os.symlink(tmp_path / "secret", run.path / "artifacts")
        else:
            write(run.path / "artifacts", "x")
        delta = read(run)
        assert (delta.files, list(delta.refused)) == ((), ["artifacts"])

    @pytest.mark.parametrize(
        ("uri", "refused"),
        [
            ("file:///gone/mlruns/7/{id}/artifacts", False),
            ("/gone/mlruns/7/{id}/artifacts/", False),
            ("''", False),
            ("s3://bucket/7/{id}/data", True),
            ("file:///scratch/alice/elsewhere", True),
        ],
    )
    @pytest.mark.parametrize("own", [None, "empty", "full"])
    def test_artifacts_that_lie_elsewhere_are_named_and_never_read(self, run, uri, refused, own):
        write(run.path / "meta.yaml", run_yaml(artifact_uri=uri.format(id=run.source_id)))
        if own:
            (run.path / "artifacts").mkdir()
        if own == "full":
            artifact(run, "a")
        delta = read(run)
        assert list(delta.refused) == (["artifacts"] if refused and own != "full" else [])
        if delta.refused:
            assert uri.format(id=run.source_id) in delta.refused["artifacts"]

    def test_a_run_in_a_folder_called_artifacts(self, tmp_path):
        run = make_run(tmp_path / "artifacts" / "mlruns")
        artifact(run, "artifacts/a")
        end(run)
        assert paths(read(run)) == ["artifacts/a"]


class TestDatasets:
    @pytest.fixture
    def linked(self, run):
        write(run.path / "inputs" / LINK_ID / "meta.yaml", INPUT)
        write(run.path.parent / "datasets" / DATASET_ID / "meta.yaml", DATASET)
        return run

    def test_the_one_that_mlflow_wrote(self, tmp_path):
        shutil.copytree(DATA / "mlflow3", tmp_path, dirs_exist_ok=True)
        (store,) = FileStoreSource().find(tmp_path)
        found = [d for run in FileStoreSource().discover(store) for d in read(run).datasets]
        assert [(d.item, d.name, d.digest, d.source_type, dict(d.tags)) for d in found] == [
            (LINK_ID, "my data", "ebd67c81", "code", {"mlflow.data.context": "training"})
        ]
        assert found[0].source.startswith('{"tags": {"mlflow.user"')
        assert "tensor-spec" in found[0].schema
        assert '"features_size": 4' in found[0].profile

    def test_missing_values(self, linked):
        end(linked)
        (dataset,) = read(linked).datasets
        assert dataset == DatasetInput(
            item=LINK_ID,
            name="my data",
            digest="0123",
            source_type="local",
            source="{}",
            schema=None,
            profile=None,
            tags={"a": "b", "n": ""},
            mark=dataset.mark,
        )

    def test_no_tags(self, linked):
        write(linked.path / "inputs" / LINK_ID / "meta.yaml", INPUT.replace("{a: b, n: null}", "[]"))
        end(linked)
        assert read(linked).datasets[0].tags == {}

    def test_once_delivered_it_goes_again_only_when_it_changed(self, linked):
        end(linked)
        cursor = Cursor()
        deliver(read(linked, cursor), cursor)
        assert read(linked, cursor).empty
        write(linked.path.parent / "datasets" / DATASET_ID / "meta.yaml", DATASET.replace("my", "our"))
        assert [d.name for d in read(linked, cursor).datasets] == ["our data"]

    def test_that_of_a_live_run_goes_when_settled(self, linked):
        clock = Clock()
        looks = Looks(5, clock)
        assert (read(linked, looks=looks).datasets, read(linked, looks=looks).waiting) == ((), 1)
        clock.now = 5
        assert (len(read(linked, looks=looks).datasets), read(linked, looks=looks).waiting) == (1, 0)

    @pytest.mark.parametrize("which", ["input", "dataset"])
    def test_torn_at_any_byte_it_is_waited_for_and_refused_when_the_run_has_ended(self, linked, which):
        path, text = {
            "input": (linked.path / "inputs" / LINK_ID / "meta.yaml", INPUT),
            "dataset": (linked.path.parent / "datasets" / DATASET_ID / "meta.yaml", DATASET),
        }[which]
        for cut in range(len(text)):
            write(path, text[:cut])
            delta = read(linked)
            assert (delta.datasets, delta.waiting, delta.refused) == ((), 1, {})
        end(linked)
        delta = read(linked)
        assert (delta.datasets, delta.waiting, list(delta.refused)) == ((), 0, [f"dataset:{LINK_ID}"])

    def test_a_dataset_that_is_not_there(self, linked):
        shutil.rmtree(linked.path.parent / "datasets")
        assert read(linked).waiting == 1
        end(linked)
        assert list(read(linked).refused) == [f"dataset:{LINK_ID}"]

    def test_a_dataset_that_is_a_link(self, linked, tmp_path):
        path = linked.path.parent / "datasets" / DATASET_ID / "meta.yaml"
        shutil.move(path, tmp_path / "moved")
        os.symlink(tmp_path / "moved", path)
        delta = read(linked)
        assert (delta.datasets, list(delta.refused)) == ((), [f"dataset:{LINK_ID}"])

    @pytest.mark.parametrize("source", ["../../secret", "''", "..", "a/b"])
    def test_a_source_outside_is_never_read(self, linked, source):
        write(linked.path / "inputs" / LINK_ID / "meta.yaml", INPUT.replace(DATASET_ID, source))
        write(linked.path.parent / "secret" / "meta.yaml", DATASET)
        end(linked)
        delta = read(linked)
        assert (delta.datasets, list(delta.refused)) == ((), [f"dataset:{LINK_ID}"])

    def test_aliases_are_refused(self, linked):
        write(linked.path / "inputs" / LINK_ID / "meta.yaml", "a: &x 1\n" + INPUT)
        assert (read(linked).waiting, read(linked).refused) == (1, {})
        end(linked)
        assert "aliases" in read(linked).refused[f"dataset:{LINK_ID}"]

    def test_models_and_other_files_are_passed_over(self, linked):
        write(linked.path / "inputs" / "m-1" / "meta.yaml", INPUT.replace("DATASET", "MODEL"))
        write(linked.path / "inputs" / "README", "x")
        write(linked.path / "inputs" / "a" / "b" / "meta.yaml", "x")
        end(linked)
        delta = read(linked)
        assert (len(delta.datasets), delta.refused) == (1, {})


def test_artifacts_elsewhere_are_read_where_the_user_mapped_them(tmp_path):
    run = make_run(tmp_path / "mlruns", artifact_uri="file:///old/place/artifacts")
    write(tmp_path / "new" / "place" / "artifacts" / "a" / "b.txt", b"x")
    source = FileStoreSource()
    refused = source.read(run, Cursor(), AllSettled()).refused
    assert "--path-map" in refused["artifacts"]
    source.path_map = PathMap({"/old": str(tmp_path / "new")})
    delta = source.read(run, Cursor(), AllSettled())
    assert [(f.path, (f.root / f.relative).read_bytes()) for f in delta.files] == [("a/b.txt", b"x")]
    assert not delta.refused
