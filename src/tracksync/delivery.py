"""Sends one batch, and finds the item that a server refuses so that it takes no others with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tracksync.destination import Destination
from tracksync.errors import RefusedError
from tracksync.model import DatasetInput, Mark
from tracksync.planner import Batch, Kind
from tracksync.rows import Rows

#: Names of held items, by kind of batch.
ITEM_NAMES = {Kind.PARAMS: "param", Kind.TAGS: "tag", Kind.DATASETS: "dataset", Kind.METRICS: "metric"}


@dataclass(slots=True)
class Receipt:
    """What became of a batch: the marks that are acknowledged, and ``(kind, item) -> error`` for what was refused."""

    marks: list[tuple[str, str, Mark]] = field(default_factory=list)
    refused: dict[tuple[Kind, str], RefusedError] = field(default_factory=dict)


def deliver(destination: Destination, run_id: str, batch: Batch) -> Receipt:
    """Send a batch; on a refusal send ever smaller pieces until the refused items stand alone.

    A metric key is never split: what follows a refused point must not arrive before it. Raises what the destination
    raises, except RefusedError.
    """
    receipt = Receipt()
    send = _sender(destination, run_id, batch.kind)
    items = Rows.of(batch.items) if batch.kind is Kind.METRICS else batch.items
    if items:  # whole, without another look at each of its points: hardly ever is one refused
        try:
            send(items)
        except RefusedError as error:
            _split(send, batch.kind, items, error, receipt)
    lost = {name for _, name in receipt.refused}
    receipt.marks = [mark for mark in batch.marks if mark[1] not in lost]
    return receipt


def _split(send: Callable[[Any], None], kind: Kind, items: Any, error: RefusedError, receipt: Receipt) -> None:  # noqa: ANN401
    """Send the halves of what was refused with ``error``."""
    names = list(dict.fromkeys(map(_name, items)))
    if len(names) == 1:
        receipt.refused[kind, names[0]] = error
        return
    middle = len(names) // 2
    for half in (set(names[:middle]), set(names[middle:])):
        part = items.only(half.__contains__) if kind is Kind.METRICS else [i for i in items if _name(i) in half]
        try:
            send(part)
        except RefusedError as smaller:
            _split(send, kind, part, smaller, receipt)


def _name(item: DatasetInput | tuple[str, Any]) -> str:
    return item.item if isinstance(item, DatasetInput) else item[0]


def _sender(destination: Destination, run_id: str, kind: Kind) -> Callable[[Any], None]:
    legal = destination.legal_key
    if kind is Kind.PARAMS:
        return lambda items: destination.log_params(run_id, [(legal(k), v) for k, v in items])
    if kind is Kind.TAGS:
        return lambda items: destination.set_tags(run_id, [(legal(k), v) for k, v in items])
    if kind is Kind.DATASETS:
        return lambda items: destination.log_datasets(run_id, items)
    return lambda items: destination.log_metrics(run_id, items.renamed(legal))
