"""Sequences of rows: who names them, where they may be cut, and what is refused."""

import numpy as np
import pytest
import torch

from serket.data import load
from serket.errors import DataError
from serket.protocol import Evidence
from serket.rows import chunks, runs

IDS = [3, 3, 3, 1, 1, 7]


def arrays(**more):
    return {"a": np.arange(12.0).reshape(6, 2), "b": np.arange(6.0), "a_sequence": IDS, **more}


def test_every_sense_sees_the_sequence_whichever_names_it():
    data = load(arrays(), ["a", "b", "c"], missing_ok=True)
    for key in ("a", "b", "c"):
        evidence = data.evidence(key, [0, 1, 3, 5])
        for one in (evidence, evidence.nothing(), evidence.silent()):
            assert one.sequence.tolist() == [3, 3, 1, 7] and one[1:3].sequence.tolist() == [3, 1]
    assert evidence.nothing()[torch.tensor([True, False, False, True])].sequence.tolist() == [3, 7]
    assert load({"a": arrays()["a"]}, ["a"]).evidence("a").sequence is None
    # The id of a sense that is not there still tells: the others are its rows.
    assert load({"b": np.arange(6.0), "a_sequence": IDS}, ["a", "b"], missing_ok=True).sequence.tolist() == IDS


def test_evidence_given_by_hand_carries_its_sequence():
    ids = torch.tensor([0, 0, 1])
    assert Evidence.of(torch.ones(3, 1), sequence=ids).sequence is ids
    assert Evidence.none(3, sequence=ids).sequence is ids and Evidence.none(3).sequence is None


def test_senses_that_disagree_are_refused():
    data = load(arrays(b_sequence=[3, 3, 1, 1, 1, 7]), ["a", "b"])
    with pytest.raises(DataError, match="different sequences") as caught:
        data.evidence("a")
    assert "rows 2" in str(caught.value) and "a_sequence and b_sequence" in str(caught.value)
    assert load(arrays(b_sequence=IDS), ["a", "b"]).evidence("b").sequence.tolist() == IDS


def test_runs_of_rows():
    assert runs(torch.tensor(IDS), 6).tolist() == [3, 2, 1]
    assert runs(None, 6).tolist() == [6] and runs(None, 0).tolist() == [] and runs(torch.tensor([]), 0).tolist() == []
    with pytest.raises(DataError, match="do not follow one another") as caught:
        runs(torch.tensor([0, 1, 0, 2]), 4)
    assert "sequences 0" in str(caught.value)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 100])
def test_chunks_cut_where_they_may(size):
    for whole in (False, True):
        cuts = chunks(6, size, torch.tensor(IDS), whole)
        assert [row for cut in cuts for row in range(6)[cut]] == list(range(6))
        ends = [cut.stop for cut in cuts]
        if whole:
            assert set(ends) <= {3, 5, 6}
            assert all(cut.stop - cut.start <= size or cut.stop - cut.start == runs_at(cut.start) for cut in cuts)
        else:
            assert ends == [*range(size, 6, size), 6]
    assert chunks(6, size, None, True) == [slice(0, 6)]
    assert chunks(0, size, None, True) == chunks(0, size) == [slice(0, 0)]


def runs_at(start):
    return {0: 3, 3: 2, 5: 1}[start]


def test_chunks_are_as_long_as_they_may_be():
    assert chunks(6, 5, torch.tensor(IDS), True) == [slice(0, 5), slice(5, 6)]
    assert chunks(6, 2, torch.tensor(IDS), True) == [slice(0, 3), slice(3, 5), slice(5, 6)]
