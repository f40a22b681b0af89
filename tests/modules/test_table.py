"""The table alone: its errors, zeros, and its messages against sums written out. (Trees: tests/engine.)"""

import math

import pytest
import torch

from serket.errors import DataError, GraphError, ShapeError
from serket.messages import Categorical, Family
from serket.modules import Table
from serket.protocol import Evidence, Port, Role

X, Y = Port(Role.PARENT, Family.CATEGORICAL, 2), Port(Role.CHILD, Family.CATEGORICAL, 3)
ZEROS = [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]


def infer(module, inbox, evidence=None):
    rows = len(next(iter(inbox.values())).logits)
    return module.infer(inbox, evidence or Evidence.none(rows), generator=torch.Generator())


def logits(*rows):
    return Categorical(torch.tensor(rows, dtype=torch.float64))


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ([[0.5, 0.5, 0.0], [1.0]], ShapeError, "ragged"),
        ([[0.5, "a", 0.0], [1.0, 0.0, 0.0]], ShapeError, "ragged or holds something"),
        ([[0.5, 0.5], [0.5, 0.5]], ShapeError, r"(?s)expected: 2 x 3.*found: 2 x 2"),
        ([ZEROS, ZEROS], ShapeError, r"(?s)expected: 2 x 3.*found: 2 x 2 x 3"),
        ([0.5, 0.25, 0.25], ShapeError, r"(?s)expected: 2 x 3.*found: 3"),
        ([[0.5, 0.5, 0.0], [0.5, 0.4, 0.0]], GraphError, r"sums 1, 0\.9"),
        ([[1.5, -0.5, 0.0], [0.5, 0.5, 0.0]], GraphError, "no distribution"),
        ([[math.nan, 0.5, 0.5], [0.5, 0.5, 0.0]], GraphError, "no distribution"),
    ],
    ids=["ragged", "text", "child-size", "too-deep", "too-flat", "sum", "negative", "nan"],
)
def test_bad_tables_are_refused(values, error, text):
    with pytest.raises(error, match=text):
        Table({"given[0]": X, "child": Y}, values)


def test_the_order_of_parents_is_the_order_of_levels():
    three = Port(Role.PARENT, Family.CATEGORICAL, 3)
    values = [[[1.0, 0.0]] * 3] * 2
    Table({"given[0]": X, "given[1]": three}, values)
    with pytest.raises(ShapeError, match=r"(?s)expected: 3 x 2 x readings.*found: 2 x 3 x 2"):
        Table({"given[0]": three, "given[1]": X}, values)


@pytest.mark.parametrize("reading", [-1.0, 3.0, 1.5], ids=["negative", "too-large", "not-whole"])
def test_readings_out_of_range_name_the_rows(reading):
    module = Table({"given[0]": X}, ZEROS)
    evidence = Evidence.of(torch.tensor([[0.0], [reading], [2.0]]).double(), row_id=torch.tensor([7, 42, 9]))
    with pytest.raises(DataError, match=r"(?s)rows 42: .*0 to 2"):
        infer(module, {"given[0]": logits(*[[0.0, 0.0]] * 3)}, evidence)
    # Where it is masked out, nobody looks.
    masked = Evidence.of(evidence.values, torch.tensor([True, False, True]), evidence.row_id)
    infer(module, {"given[0]": logits(*[[0.0, 0.0]] * 3)}, masked)


def test_readings_of_two_columns_are_refused():
    with pytest.raises(DataError, match="2 columns"):
        infer(Table({"given[0]": X}, ZEROS), {"given[0]": logits([0.0, 0.0])}, Evidence.of(torch.zeros(1, 2).double()))


def test_whole_numbers_of_any_type_are_readings():
    module, inbox = Table({"given[0]": X}, ZEROS), {"given[0]": logits([0.3, -0.2])}
    replies = [
        infer(module, inbox, Evidence.of(torch.tensor([[2]], dtype=d)))
        for d in (torch.uint8, torch.int64, torch.float32)
    ]
    for reply in replies:
        assert reply.messages["given[0]"].logits.tolist() == [[-math.inf, math.log(0.75)]]
        assert float(reply.log_evidence) == pytest.approx(math.log(0.75) - 0.2)


def test_zeros_stay_zeros_and_make_no_nan():
    module = Table({"given[0]": X, "child": Y}, ZEROS)
    inbox = {
        "given[0]": logits([0.0, -math.inf], [0.2, 0.1]),
        "child": logits([0.0, 1.0, -math.inf], [-math.inf, -math.inf, 0.5]),
    }
    reply = infer(module, inbox)
    up, down = reply.messages["given[0]"].logits, reply.messages["child"].logits
    assert not bool(up.isnan().any()) and not bool(down.isnan().any()) and not bool(reply.log_evidence.isnan().any())
    # Up: log sum_y T[x, y] n(y), the own inbox left out; a state the inbox excludes is still answered for.
    e = math.e
    assert up[0].tolist() == pytest.approx([math.log(0.5 + 0.5 * e), math.log(0.25 * e)])
    assert up[1].tolist() == pytest.approx([-math.inf, math.log(0.75) + 0.5])
    assert down[0].tolist() == pytest.approx([math.log(0.5), math.log(0.5), -math.inf])
    assert float(reply.log_evidence[0]) == pytest.approx(math.log(0.5 + 0.5 * e))
    assert float(reply.log_evidence[1]) == pytest.approx(math.log(0.75) + 0.5 + 0.1)


def test_a_contradiction_is_minus_infinity_not_nan():
    module = Table({"given[0]": X, "child": Y}, ZEROS)
    reply = infer(module, {"given[0]": logits([0.0, -math.inf]), "child": logits([-math.inf, -math.inf, 0.0])})
    assert float(reply.log_evidence) == -math.inf
    assert reply.messages["given[0]"].logits.tolist() == [[-math.inf, math.log(0.75)]]


def test_predictions_average_the_table_over_beliefs():
    module = Table({"given[0]": X, "given[1]": X}, [ZEROS, [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]])
    beliefs = {
        "given[0]": Categorical.from_probs(torch.tensor([[0.3, 0.7]])),
        "given[1]": Categorical.from_probs(torch.tensor([[0.6, 0.4]])),
    }
    imagined = module.predict(beliefs, generator=torch.Generator())
    weights = [0.3 * 0.6, 0.3 * 0.4, 0.7 * 0.6, 0.7 * 0.4]
    rows = [*ZEROS, [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]
    for k in range(3):
        expected = sum(weight * row[k] for weight, row in zip(weights, rows, strict=True))
        assert float(imagined.log_prob(torch.tensor([k])).exp().squeeze()) == pytest.approx(expected, rel=1e-5)


def test_a_number_is_the_probability_of_the_same():
    lazy = Table(
        {
            "given[0]": Port(Role.PARENT, Family.CATEGORICAL, size=3),
            "child": Port(Role.CHILD, Family.CATEGORICAL, size=3),
        },
        0.8,
    )
    assert torch.allclose(lazy.table, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]).double())
    two = {name: Port(Role.PARENT, Family.CATEGORICAL, size=2) for name in ("given[0]", "given[1]")}
    with pytest.raises(GraphError, match="one parent"):
        Table(two, 0.8)
