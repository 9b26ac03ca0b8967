"""Properties of the ledger: any entry comes back, no damage is taken for an entry, and it acts like a dictionary."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tracksync.errors import LeaseError
from tracksync.ledger import Entry, Ledger, Problem, State
from tracksync.ledger.codec import HEAD_BYTES, Head, decode, encode, read_head
from tracksync.ledger.store import document_id
from tracksync.model import PARTS, Cursor

TO = "http://server:5000"

# any text, and bytes of file names that are no UTF-8 (as os.fsdecode gives them)
characters = st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)
text = st.text(characters, max_size=20)
maybe_text = st.none() | text
count = st.integers(0, 2**63)
mark = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
problem = st.builds(Problem, text, text, mark)
texts = st.lists(text, max_size=3)
cursor = st.builds(Cursor, st.dictionaries(st.sampled_from(PARTS), st.dictionaries(text, mark, max_size=4)))
entries = st.builds(
    Entry,
    source_id=text, kind=text, store=text, path=text, state=st.sampled_from(State), epoch=st.integers(0, 2**40),
    name=text, experiment=text, claim=maybe_text, run_id=maybe_text, experiment_id=maybe_text, confirmed=st.booleans(),
    url=maybe_text, cursor=cursor, clean=st.booleans(), server_cursor=maybe_text, server_cursor_time=count,
    stamp=st.none() | st.lists(st.integers(), max_size=5).map(tuple), fingerprint=maybe_text, status=maybe_text,
    parent=maybe_text, parent_run_id=maybe_text, waits_for=texts, held=st.dictionaries(text, problem, max_size=3),
    refused=st.dictionaries(text, text, max_size=3), refused_count=count, doubles=texts, other_paths=texts,
    models=st.dictionaries(text, text, max_size=3), models_pending=texts, models_confirmed=st.booleans(),
    drift=texts, points=count, files=count, bytes=count, pending_points=count, pending_files=count,
    pending_bytes=count, last_success=st.none() | count, last_error=st.none() | problem,
    last_error_time=st.none() | count, attempts=count, retry_at=count, job=maybe_text, job_cluster=text,
    job_state=maybe_text, job_end=count, changed=count,
)  # fmt: skip


def head(entry):
    return Head(entry.epoch, 1, "00ff", document_id(entry.source_id))


def test_the_strategy_knows_every_field():
    with_all = entries.wrapped_strategy if hasattr(entries, "wrapped_strategy") else entries
    assert set(with_all.kwargs) == set(Entry.__dataclass_fields__)


@given(entries)
def test_any_entry_comes_back(entry):
    data = encode(entry, head(entry))
    assert b"\n" not in data
    assert decode(data) == entry
    assert read_head(data[:HEAD_BYTES]) == head(entry)


@given(entries, st.data())
def test_no_part_of_a_document_is_taken_for_one(entry, data):
    whole = encode(entry, head(entry))
    cut = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:cut], whole[:cut] + b"\0" * (len(whole) - cut)):
        with pytest.raises(ValueError):
            decode(damaged)


@given(entries, st.data())
def test_any_damage_is_an_entry_or_a_value_error(entry, data):
    whole = bytearray(encode(entry, head(entry)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(whole))
    except ValueError:
        return
    assert isinstance(found, Entry)
    encode(found, head(found))  # and it can be written again


class LedgerMachine(RuleBasedStateMachine):
    """Two processes' ledgers over one directory against a dictionary and a note of who took each run."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.ledgers = [Ledger(self.directory, TO), Ledger(self.directory, TO)]
        self.model, self.owner, self.mine = {}, {}, ({}, {})

    runs, who = st.sampled_from(["a" * 32, "b" * 32, "other/kind", "c" * 32]), st.sampled_from([0, 1])

    @rule(run=runs, who=who)
    def take(self, run, who):
        entry = self.ledgers[who].get(run) or Entry(source_id=run, kind="k", store="h:/s", path="/p")
        before = entry.epoch
        self.ledgers[who].take(entry)
        assert entry.epoch > before
        self.model[run], self.owner[run], self.mine[who][run] = replace(entry), who, entry

    @rule(run=runs, who=who, store=st.sampled_from(["h:/s", "h:/t"]), settled=st.booleans())
    def commit(self, run, who, store, settled):
        entry = self.mine[who].get(run)
        if entry is None:
            return
        changed = replace(entry, store=store, points=entry.points + 1, stamp=(1,) if settled else None)
        if self.owner[run] == who:
            self.ledgers[who].commit(changed)
            self.model[run], self.mine[who][run] = replace(changed), changed
        else:
            with pytest.raises(LeaseError):
                self.ledgers[who].commit(changed)

    @rule(who=who)
    def fold(self, who):
        self.ledgers[who].fold(force=True)

    @rule(who=who)
    def restart(self, who):
        self.ledgers[who] = Ledger(self.directory, TO)
        for run in [run for run, owner in self.owner.items() if owner == who]:
            self.owner[run] = None
        self.mine[who].clear()

    @invariant()
    def both_see_what_was_written(self):
        for ledger in self.ledgers:
            assert {entry.source_id: entry for entry in ledger.entries()} == self.model
            assert sum(1 for _ in ledger.entries()) == len(self.model)
            for run, entry in self.model.items():
                assert ledger.get(run) == entry
            for store in ("h:/s", "h:/t"):
                found = {entry.source_id for entry in ledger.entries([store])}
                assert found == {run for run, entry in self.model.items() if entry.store == store}

    def teardown(self):
        assert not list(self.directory.rglob("*.damaged-*"))
        shutil.rmtree(self.directory)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
