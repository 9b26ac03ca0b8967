"""Writes W&B logs as wandb does, by hand: framing, and the few protobuf messages; and what wandb's own reader found."""

import json
import math
import struct
import zlib
from pathlib import Path

from filestore_make import deliver

from tracksync.model import RunRef, Store

SAMPLES = Path(__file__).parents[1] / "data" / "wandb"
VERSIONS = ("0.17.9", "0.20.1", "0.28.2", "0.31.0")
BLOCK = 32768
START = 1_700_000_000
#: what wandb itself puts into each row
OWN = ("_step", "_timestamp", "_runtime", "_wandb")
#: numbers of the records and fields in wandb_internal.proto
ALERT, USED = 10, 25
HISTORY, SUMMARY, CONFIG, STATS, ARTIFACT, METRIC, RUN, EXIT, HEADER, FINAL = 2, 3, 5, 7, 8, 12, 17, 18, 21, 20


def varint(number):
    out = bytearray()
    number &= 2**64 - 1
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """A field: a number, a double, a text, or the bytes of a message."""
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def item(key, value):
    """An item of one key, or of a tuple of keys as wandb-core nests them; the value as JSON, or bytes as they are."""
    path = b"".join(field(2, part) for part in key) if isinstance(key, tuple) else field(1, key)
    return path + (value if isinstance(value, bytes) else field(16, json.dumps(value)))


def pieces(record, position, block=BLOCK):
    """A record in its frames, as it is written at a position of the file."""
    out, first = b"", True
    while True:
        left = block - position % block
        if left < 7:
            out += bytes(left)
            position, left = position + left, block
        body, record = record[: left - 7], record[left - 7 :]
        kind = (1 if not record else 2) if first else (4 if not record else 3)
        out += struct.pack("<IHB", zlib.crc32(bytes([kind]) + body), len(body), kind) + body
        position, first = position + 7 + len(body), False
        if not record:
            return out


class Log:
    """A run's directory in a store `root`, and its log."""

    def __init__(self, root, run_id="abc", project="weather", start=START, *, name=None, producer="0.31.0", **fields):
        self.root, self.id, self.project, self.start = Path(root), run_id, project, start
        self.directory = self.root / (name or f"offline-run-20260101_{start % 1_000_000:06}-{run_id}")
        self.directory.mkdir(parents=True)
        self.path = self.directory / f"run-{run_id}.wandb"
        self.path.write_bytes(b":W&B\xe1\xbe\0")
        self.write(HEADER, field(1, field(1, producer)) if producer else b"")
        self.run(**fields)

    def run(self, more=b"", **config):
        update = b"".join(field(1, item(key, value)) for key, value in config.items())
        body = field(1, self.id) + (field(3, self.project) if self.project else b"") + field(4, update)
        self.write(RUN, body + field(17, field(1, self.start)) + more)

    def write(self, kind, body):
        size = self.path.stat().st_size
        with self.path.open("ab") as file:
            file.write(pieces(field(kind, body), size))

    def log(self, step, **values):
        """A row, `_timestamp` being one second later with each step."""
        row = {"_step": step, "_timestamp": self.start + step + 0.25, **values}
        self.write(HISTORY, b"".join(field(1, item((key,), value)) for key, value in row.items()))

    def row(self, *items):
        self.write(HISTORY, b"".join(field(1, one) for one in items))

    def summary(self, **values):
        self.write(SUMMARY, b"".join(field(1, item(key, value)) for key, value in values.items()))

    def config(self, **values):
        self.write(CONFIG, b"".join(field(1, item(key, value)) for key, value in values.items()))

    def exit(self, code=0):
        self.write(EXIT, field(1, code) if code else b"")

    @property
    def source_id(self):
        return f"wandb:{self.project}/{self.id}@{self.start * 1000}"

    @property
    def ref(self):
        return RunRef(Store("wandb", self.root), self.source_id, self.directory)


def told(version, run):
    """What wandb's own reader found in the log of a sample: the records of each kind."""
    found = {}
    for line in (SAMPLES / version / f"{run}.jsonl").read_text().splitlines():
        for kind, content in json.loads(line).items():
            found.setdefault(kind, []).append(content)
    return found


def rows(version, run):
    """The rows that wandb's own reader found, as {(key, ...): value}."""
    return [
        {tuple(i.get("nested_key") or [i["key"]]): json.loads(i["value_json"]) for i in row["item"]}
        for row in told(version, run).get("history", [])
    ]


def samples(version):
    """The directories of a version's runs."""
    return sorted(path.name for path in (SAMPLES / version / "wandb").iterdir())


def points(delta):
    return {t.key: [(p.step, comparable(p.value)) for c in t.chunks(7) for p in c.points] for t in delta.metrics}


def comparable(value):
    return "nan" if math.isnan(value) else value


def params(delta):
    return {p.key: p.value for p in delta.params}


def tags(delta):
    return {t.key: t.value for t in delta.tags}


def take(delta, cursor, got):
    """Deliver all of a delta: its points are put behind those that were got before."""
    for key, found in deliver(delta, cursor).items():
        got.setdefault(key, []).extend(found)


def first(version):
    """Which of the directories holds the whole run: wandb 0.28 gives a second one of that second a suffix."""
    return 1 if samples(version)[0].endswith("-1") else 0


def numbers_of(found):
    """What rows of wandb's own reader hold in numbers: key -> [(ms, value)], sorted; media are none."""
    wanted = {}
    for row in found:
        time = round(row[("_timestamp",)] * 1000)
        media = {path[:-1] for path in row if path[-1] == "_type"}
        for path, value in row.items():
            if path[0] not in OWN and path[:-1] not in media:
                for key, number in leaves(".".join(path), value):
                    wanted.setdefault(key, []).append((time, comparable(number)))
    return {key: sorted(found, key=str) for key, found in wanted.items()}


def leaves(key, value):
    if isinstance(value, dict):
        if "_type" not in value:
            for name, below in value.items():
                yield from leaves(f"{key}.{name}", below)
    elif isinstance(value, bool | int | float):
        yield key, float(value)
