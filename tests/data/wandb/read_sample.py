"""What wandb's own reader (0.29 or older) finds in a log, as JSON lines: python read_sample.py LOG."""

import json
import sys

from google.protobuf.json_format import MessageToDict
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

store = DataStore()
store.open_for_scan(sys.argv[1])
while (data := store.scan_data()) is not None:
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    content = MessageToDict(getattr(record, kind), preserving_proto_field_name=True)
    if kind in ("run", "config", "history", "exit", "metric"):
        content.pop("telemetry", None)
        sys.stdout.write(json.dumps({kind: content}) + "\n")
