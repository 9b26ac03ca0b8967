"""What a server that gave no answer is asked, and what follows from it; a real one in tests/server/test_set_back."""

import pytest

from tracksync.errors import HeldError, RefusedError, SetBackError, UnreachableError
from tracksync.mlflow_server import witness
from tracksync.mlflow_server.witness import Witness


class Server:
    """Answers each question with the next of `answers`, an error where it is one."""

    def __init__(self, *answers):
        self.answers, self.asked, self.probes = list(answers), [], 0

    def get_run(self, run_id):
        self.asked.append(run_id)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def history(self, run_id, key):
        raise AssertionError("not asked for")

    def probe(self):
        self.probes += 1
        return "3.0"


def has(what):
    return lambda run, histories: what in run


def made(*answers):
    server = Server(*answers)
    return Witness(lambda: server), server


def test_nothing_is_asked_as_long_as_it_answers():
    mine, server = made()
    mine.took("a", has(1))
    mine.admit()
    assert server.asked == []


def test_what_was_acknowledged_last_is_asked_for_once():
    mine, server = made({1, 2})
    mine.took("other", has(0))
    mine.took("a", has(1))
    mine.lapse(mine.now)
    mine.admit()
    mine.admit()
    assert server.asked == ["a"]


def test_what_others_are_told_meanwhile_hides_nothing():
    mine, server = made({3})
    mine.took("a", has(1))
    asked = mine.now
    mine.took("a", has(2))  # by the server as it was
    mine.took("a", has(3))  # by the one that was set back
    mine.lapse(asked)
    with pytest.raises(SetBackError):
        mine.admit()
    with pytest.raises(SetBackError):
        mine.admit()
    assert mine.set_back
    assert server.asked == ["a"]
    assert mine.forgive()
    mine.admit()
    assert not mine.set_back
    assert not mine.forgive()


def test_a_run_that_is_gone_is_lost():
    mine, _ = made(HeldError("no such run"))
    mine.took("a")
    mine.lapse(mine.now)
    with pytest.raises(SetBackError):
        mine.admit()


@pytest.mark.parametrize("error", [UnreachableError("502"), RefusedError("400")])
def test_a_question_without_an_answer_proves_nothing_for_a_while(error, monkeypatch):
    mine, server = made(error, error, {1})
    mine.took("a", has(1))
    mine.lapse(mine.now)
    for _ in range(2):
        with pytest.raises(UnreachableError) as caught:
            mine.admit()
        assert not isinstance(caught.value, SetBackError)
    mine.admit()
    assert (server.asked, server.probes) == (["a"] * 3, 2)
    monkeypatch.setattr(witness, "PATIENCE", -1.0)
    server.answers = [error]
    mine.lapse(mine.now)
    with pytest.raises(SetBackError):
        mine.admit()


def test_what_came_while_it_was_asked_is_asked_for_again():
    class Breaks(Server):
        def get_run(self, run_id):
            mine.lapse(mine.now)
            return super().get_run(run_id)

    server = Breaks({1}, {1})
    mine = Witness(lambda: server)
    mine.took("a", has(1))
    mine.lapse(mine.now)
    mine.admit()
    assert len(server.asked) == 1
    mine.admit()
    assert len(server.asked) == 2
