"""Few pairs and missing views: what is kept, what is parted, and that nothing tells which rows belonged together."""

import numpy as np
import pytest

from serket.data import few_pairs, load, missing_at_random
from serket.errors import DataError

ROWS, TEST = 60, 20


def source(**more):
    """Every view holds the number of its row, and so does the label: pairs can be told."""
    number = np.arange(ROWS, dtype=np.float32)
    arrays = {"a": number[:, None] + 1, "b": np.repeat(number[:, None], 2, 1) + 1, "c": number + 1}
    return load({**arrays, "label": np.arange(ROWS), "test": np.arange(TEST), **more}, ["a", "b", "c"])


def seen(data):
    return np.stack([mask.reshape(data.rows, -1).all(1) for mask in data.masks.values()])


@pytest.mark.parametrize("pairs", [0, 1, 15, ROWS - TEST])
def test_pairs_stay_whole_and_every_other_view_stands_alone(pairs):
    data = few_pairs(source(), pairs, seed=3)
    views, train = seen(data), data.train
    assert len(train) == pairs + 3 * (ROWS - TEST - pairs)
    assert (np.sort(views[:, train].sum(0)) == [1] * (len(train) - pairs) + [3] * pairs).all()
    assert views[:, data.test].all() and (data.label[data.test] == np.arange(TEST)).all()
    for key, row in zip(data.arrays, views, strict=True):
        values = data.arrays[key].reshape(data.rows, -1)
        assert (values[row] == data.label[row][:, None] + 1).all(), "the label follows the view"
        assert (values[~row] == 0).all()
        assert sorted(data.label[train][row[train]]) == list(range(TEST, ROWS)), "every view of every row is there once"


def test_nothing_tells_which_views_belonged_together():
    data = few_pairs(source(), 10, seed=3)
    assert len(np.unique(data.row_id)) == data.rows
    alone = seen(data).sum(0) == 1
    assert data.row_id[alone].min() >= ROWS
    orders = [data.label[alone & row].tolist() for row in seen(data)]
    assert len({tuple(order) for order in orders}) == 3 and sorted(orders[0]) == sorted(orders[1]) != orders[0]


def test_one_seed_one_choice_and_fewer_pairs_are_among_more():
    def kept(pairs, seed):
        data = few_pairs(source(), pairs, seed=seed)
        return set(data.label[data.train][seen(data)[:, data.train].all(0)].tolist())

    assert few_pairs(source(), 10, seed=3).sha256 == few_pairs(source(), 10, seed=3).sha256
    assert kept(5, 3) < kept(20, 3) and kept(5, 3) != kept(5, 4)


def test_rows_with_gaps_are_no_pairs_and_give_what_they_have():
    mask = np.ones(ROWS, dtype=bool)
    mask[TEST : TEST + 10] = False
    data = few_pairs(source(a_mask=mask), 30, seed=0)
    views = seen(data)[:, data.train]
    assert views.all(0).sum() == 30 and views.sum(1).tolist() == [30, 40, 40]


def test_what_cannot_be_parted_is_refused():
    with pytest.raises(DataError, match="0 to 40"):
        few_pairs(source(), 41)
    with pytest.raises(DataError, match="two views"):
        few_pairs(load({"a": np.zeros((9, 2))}, ["a"]), 3)
    with pytest.raises(DataError, match="steps in time"):
        few_pairs(source(a_sequence=np.zeros(ROWS, dtype=int)), 3)
    with pytest.raises(DataError, match="0 <= share <= 1"):
        missing_at_random(source(), 1.5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_views_go_missing_and_never_all_of_a_row(share):
    number = np.arange(3000.0)
    whole = load({key: number + 1 for key in "abc"} | {"test": np.arange(100)}, ["a", "b", "c"])
    data = missing_at_random(whole, share, seed=1)
    views = seen(data)
    assert views[:, data.test].all() and views.any(0).all() and (data.train == whole.train).all()
    # A view goes with probability s, but for one view in three of the rows, s^3, that would lose all: within 4 sd.
    gone, expected = (~views[:, data.train]).mean(1), share - share**3 / 3
    assert np.abs(gone - expected).max() <= 4 * np.sqrt(expected * (1 - expected) / len(data.train))
    assert all((data.arrays[key][~row] == 0).all() for key, row in zip(data.arrays, views, strict=True))
    assert missing_at_random(whole, share, seed=1).sha256 == data.sha256


def test_a_row_keeps_one_of_the_views_it_had():
    mask = np.ones(ROWS, dtype=bool)
    mask[TEST:40] = False
    data = missing_at_random(source(a_mask=mask), 1.0, seed=2)
    views = seen(data)[:, data.train]
    assert (
        (views.sum(0) == 1).all() and not views[0, :20].any() and views[:, :20].any(1).tolist() == [False, True, True]
    )
