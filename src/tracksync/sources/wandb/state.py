"""What the records of a log add up to: the run's fields, its config, its summary, its points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tracksync.model import INT64, Point
from tracksync.sources.nested import Json, Row, flatten
from tracksync.sources.pointspool import PointSpool
from tracksync.sources.protobuf import Message
from tracksync.sources.wandb.items import item_of, key_bytes, parse, put, take_out
from tracksync.sources.wandb.messages import broken, message
from tracksync.sources.wandb.rows import OWN, row_of

SYSTEM = "system/"
#: What wandb calls the variables of the job (``SLURM_JOB_ID`` ...), and the tags that tracksync knows jobs by.
_SLURM = {
    "job_id": "slurm.job_id",
    "job_name": "slurm.job_name",
    "array_job_id": "slurm.array_job_id",
    "array_task_id": "slurm.array_task_id",
    "restart_count": "slurm.restart_count",
    "cluster_name": "slurm.cluster",
    "job_nodelist": "slurm.nodelist",
}
_TEXTS = ("run_id", "entity", "project", "run_group", "job_type", "display_name", "notes", "sweep_id", "host")


@dataclass(frozen=True, slots=True)
class LoggedArtifact:
    """An artifact that the run logged: its name, which version of it, and its files (path, local path, reference)."""

    name: str
    version: int
    files: tuple[tuple[str, str, str], ...]
    #: where its list of files lies when it is too long for the log
    manifest: str


@dataclass(slots=True)
class State:
    """A run as far as its log has been read. Feed it with :meth:`take`, record by record."""

    points: PointSpool
    fields: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    start: int | None = None
    resumed: bool = False
    branch: dict[str, Json] = field(default_factory=dict)
    config: dict[str, Json] = field(default_factory=dict)
    exit_code: int | None = None
    runtime: int = 0
    artifacts: list[LoggedArtifact] = field(default_factory=list)
    #: what can never be delivered, with the reason
    refused: dict[str, str] = field(default_factory=dict)
    #: time (ms) and step of the last row
    last_time: int = 0
    last_step: int = 0
    _last_final: bool = False
    _core: bool = False
    _closed: bool = False
    _stats: int = 0
    _alerts: int = 0
    _digests: dict[str, list[bytes]] = field(default_factory=dict)
    #: the latest update or removal of each item by its key as it is encoded, oldest first
    _summary: dict[bytes, bytes] = field(default_factory=dict)
    _step_metrics: dict[str, str] = field(default_factory=dict)
    _globs: dict[str, str] = field(default_factory=dict)
    _declared: dict[str, str] = field(default_factory=dict)

    @property
    def named(self) -> bool:
        """Whether the record that says who the run is has been met."""
        return "run_id" in self.fields

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come: wandb-core ends with the exit, older versions with a final record."""
        return self.exit_code is not None and (self._core or self._last_final)

    @property
    def end(self) -> int:
        """When the run ended (ms), as far as its log tells."""
        own = self._summed().get("_wandb")
        took = own.get("runtime") if isinstance(own, dict) else 0
        seconds = max(self.runtime, took if isinstance(took, int) else 0)
        return max((self.start or 0) + 1000 * seconds, self.last_time)

    def take(self, data: bytes) -> None:
        """Take one record in.

        Raises:
            DecodeError: of protobuf; it is none.
        """
        record = message("Record").FromString(data)
        kind = record.WhichOneof("one")
        if kind is not None:
            getattr(self, f"_on_{kind}")(getattr(record, kind))

    def _on_header(self, header: Message) -> None:
        self._core = bool(header.version_info.producer)

    def _on_final(self, _: Message) -> None:
        self._last_final = True

    _on_footer = _on_final

    def _on_run(self, run: Message) -> None:
        """The first record of the run, or a later one, which holds all or only what is new."""
        self.fields |= {name: _text(value) for name in _TEXTS if (value := getattr(run, name))}
        if run.tags:
            self.tags = [_text(tag) for tag in run.tags]
        if self.start is None and run.HasField("start_time"):
            self.start = _ms(run.start_time)
        self.resumed = self.resumed or run.resumed  # `resume` only says that it would be, were there anything to resume
        if run.HasField("branch_point"):
            point = run.branch_point
            self.branch = {"run": _text(point.run), "metric": _text(point.metric) or "_step", "value": point.value}
        self._git(run.git)
        self._on_config(run.config)

    def _git(self, git: Message) -> None:
        if git.commit:
            self.extra["mlflow.source.git.commit"] = _text(git.commit)
        if git.remote_url:
            self.extra["mlflow.source.git.repoURL"] = _text(git.remote_url)

    def _on_environment(self, environment: Message) -> None:
        if environment.program:
            self.extra["mlflow.source.name"] = _text(environment.program)
        self._git(environment.git)
        for pair in environment.slurm:
            if tag := _SLURM.get(_text(pair.key).lower()):
                self.extra[tag] = _text(pair.value)

    def _on_config(self, changes: Message) -> None:
        for raw in changes.update:
            path, text = item_of(raw)
            put(self.config, path, parse(text))
        for raw in changes.remove:
            take_out(self.config, item_of(raw)[0])
        own = self.config.get("_wandb")
        point = own.get("branch_point") if isinstance(own, dict) else None
        if isinstance(point, dict) and not self.branch:
            self.branch = {"run": str(point.get("run_id", "")), "metric": "_step", "value": point.get("step")}

    def _on_summary(self, changes: Message) -> None:
        """Only kept as it is: wandb-core writes one with each row, and none but the last of all is of use."""
        for raw in (*changes.update, *changes.remove):
            head = key_bytes(raw)
            self._summary.pop(head, None)
            self._summary[head] = raw

    def _on_metric(self, metric: Message) -> None:
        name, glob, step = _text(metric.name), _text(metric.glob_name), _text(metric.step_metric)
        if name:
            self._step_metrics[name] = step
        elif glob:
            self._globs[glob.removesuffix("*")] = step
        self._declared.clear()

    def _on_exit(self, left: Message) -> None:
        self.exit_code, self.runtime = left.exit_code, left.runtime

    def _on_artifact(self, artifact: Message) -> None:
        name, known = _text(artifact.name), self._digests.setdefault(_text(artifact.name), [])
        if artifact.digest in known:
            return
        known.append(artifact.digest)
        files = tuple((_text(e.path), _text(e.local_path), _text(e.ref)) for e in artifact.manifest.contents)
        elsewhere = _text(artifact.manifest.manifest_file_path)
        self.artifacts.append(LoggedArtifact(name, len(known) - 1, files, elsewhere))

    def _on_use_artifact(self, used: Message) -> None:
        self.refused[f"input:{_text(used.name)}"] = "an artifact that the run used: MLflow has no such link"

    def _on_alert(self, _: Message) -> None:
        self._alerts += 1
        self.refused["alerts"] = f"{self._alerts}: MLflow has no place for them"

    def _on_stats(self, stats: Message) -> None:
        time = _ms(stats.timestamp)
        for key, value in row_of(stats.item).numbers.items():
            self._add(f"{SYSTEM}{key}", Point(time, value, self._stats))
        self._stats += 1
        self.last_time = max(self.last_time, time)

    def _on_history(self, history: Message) -> None:
        row = row_of(history.item)
        counter = row.own.get("_step", history.step.num)
        native = int(counter) if abs(counter) < INT64 else INT64
        time = round(row.own["_timestamp"] * 1000) if _usable(row) else self.last_time or self.start or 0
        step = row.step(None, native)
        for key, value in row.numbers.items():
            if (declared := self._declared.get(key)) is None:
                declared = self._declared[key] = self._declare(key)
            self._add(key, Point(time, value, row.step(declared, native) if declared else step))
        for key, what in row.others.items():
            self.refused[f"metric:{key}"] = f"{what}: MLflow's metrics are numbers"
        self.last_time, self.last_step = max(self.last_time, time), step

    def _declare(self, key: str) -> str:
        """The metric that was declared to be the step of this one; empty when there is none."""
        if key in self._step_metrics:
            return self._step_metrics[key]
        return next((step for prefix, step in self._globs.items() if key.startswith(prefix)), "")

    def _add(self, key: str, point: Point) -> None:
        if 0 <= point.timestamp < INT64 and -INT64 <= point.step < INT64:
            self.points.add(key, point)
        else:
            self.refused[f"metric:{key}"] = f"step {point.step} at {point.timestamp} ms is out of range"

    def close(self) -> None:
        """The run is over: what only its summary tells becomes a point of the last step."""
        if self._closed:
            return
        self._closed = True
        end = self.end
        for key, value in self._summary_only():
            self._add(key, Point(end, value, self.last_step))

    def _summary_only(self) -> Iterator[tuple[str, float]]:
        for key, value in flatten({key: value for key, value in self._summed().items() if key not in OWN}):
            if isinstance(value, bool | int | float) and key not in self.points.counts:
                yield key, float(value)

    def _summed(self) -> dict[str, Json]:
        """The summary as its changes left it."""
        tree: dict[str, Json] = {}
        for raw in self._summary.values():
            try:
                path, text = item_of(raw)
            except broken():
                self.refused["summary"] = "an item of it cannot be decoded"
                continue
            if text:
                put(tree, path, parse(text))
            else:
                take_out(tree, path)
        return tree


def _usable(row: Row) -> bool:
    return 0 <= row.own.get("_timestamp", -1) < INT64 // 1000


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _ms(time: Message) -> int:
    return int(time.seconds) * 1000 + int(time.nanos) // 1_000_000
