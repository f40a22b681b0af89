"""Replies are checked where they are made; what makes a belief improper is mended, counted, or refused."""

import pytest
import torch

from serket.engine import run
from serket.engine.run import pass_messages
from serket.errors import MessageError
from serket.graph import load_graph
from serket.messages import Categorical, Gaussian
from serket.protocol import Evidence, Reply
from tests.engine.models import POSITION, SPECS


class Says:
    """A module whose reply is what the test says, on the port of a sensor."""

    def __init__(self, like, reply):
        self.ports, self.reply = like.ports, reply

    def infer(self, inbox, evidence, *, generator, ports=None):
        reply = self.reply(len(evidence))
        asked = self.ports if ports is None else ports
        return Reply({p: m for p, m in reply.messages.items() if p in asked or p not in self.ports}, reply.includes,
                     reply.tilted, reply.log_evidence, reply.bound)  # fmt: skip


def run_with(say, rows=3, **options):
    graph = load_graph(POSITION)
    modules = graph.build()
    modules["a"] = Says(modules["a"], say)
    b = torch.tensor([[0.5, 1.0], [2.0, 2.0], [torch.nan, torch.nan]]).double()[:rows]
    evidence = {"a": Evidence.of(torch.zeros(rows, 1).double()), "b": Evidence.of(b)}
    return run(graph, modules, evidence, **options), run(graph, modules, {"a": evidence["a"].nothing(), "b": evidence["b"]},
                                                         active=frozenset({"b"}))  # fmt: skip


def gaussian(precision, size=2, rows=3, info=1.0):
    lam = torch.as_tensor(precision).double().reshape(-1, 1).expand(rows, size).contiguous()
    return Gaussian(torch.full_like(lam, info), lam)


@pytest.mark.parametrize(
    ("reply", "where", "found"),
    [
        (Reply({}), "a", "no message"),
        (Reply({"given[0]": gaussian(1.0), "given[7]": gaussian(1.0)}), "a", r"given\[7\]"),
        (
            Reply({"given[0]": Categorical(torch.zeros(3, 2).double())}),
            r"a.given\[0\]",
            r"Categorical of shape \(3, 2\)",
        ),
        (Reply({"given[0]": gaussian(1.0, size=3)}), r"a.given\[0\]", r"\(3, 3\)"),
        (Reply({"given[0]": gaussian(1.0, rows=2)}), r"a.given\[0\]", r"\(2, 2\)"),
        (Reply({"given[0]": gaussian([1.0, torch.nan, 1.0])}), r"a.given\[0\]", "rows 1"),
        (Reply({"given[0]": gaussian([1.0, 1.0, torch.inf])}), r"a.given\[0\]", "rows 2"),
        (Reply({"given[0]": gaussian(1.0, info=-torch.inf)}), r"a.given\[0\]", "rows 0, 1, 2"),
        (Reply({"given[0]": gaussian(1.0)}, log_evidence=torch.zeros(2).double()), "a", r"\(2,\)"),
        (Reply({"given[0]": gaussian(1.0)}, log_evidence=torch.tensor([0, torch.nan, 0])), "a", "NaN in rows 1"),
    ],
    ids=[
        "no-name",
        "another-name",
        "family",
        "size",
        "rows",
        "nan",
        "inf",
        "minus-inf",
        "evidence-shape",
        "evidence-nan",
    ],
)
def test_a_malformed_reply_is_caught_at_its_producer(reply, where, found):
    with pytest.raises(MessageError, match=rf"(?s)^{where}: .*found: .*{found}"):
        run_with(lambda rows: reply)


NEGATIVE = [2.0, -30.0, 0.5]


def test_negative_precision_is_dropped_where_it_breaks_a_belief_and_counted_by_row():
    result, without = run_with(lambda rows: Reply({"given[0]": gaussian(NEGATIVE[:rows], rows=rows)}))
    assert result.improper == {"a.given[0]": 1} and not result.exact
    assert bool(result["x"].is_proper().all())
    torch.testing.assert_close(result["x"].mean()[1], without["x"].mean()[1])
    torch.testing.assert_close(result["x"].covariance()[1], without["x"].covariance()[1])
    for row in (0, 2):
        whole = without["x"][row : row + 1] * gaussian([NEGATIVE[row]], rows=1)
        torch.testing.assert_close(result["x"].covariance()[row], whole.covariance()[0])


def test_only_the_negative_directions_are_dropped():
    lam = torch.tensor([[4.0, -50.0]]).double().expand(3, 2).contiguous()
    result, without = run_with(lambda rows: Reply({"given[0]": Gaussian(torch.ones_like(lam), lam)[:rows]}))
    kept = Gaussian(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[4.0, 0.0]]).double()).expand(3)
    torch.testing.assert_close(result["x"].covariance(), (without["x"] * kept).covariance())
    torch.testing.assert_close(result["x"].mean(), (without["x"] * kept).mean())
    assert result.improper == {"a.given[0]": 3}


def test_negative_precision_travels_where_the_belief_stays_proper():
    result, without = run_with(lambda rows: Reply({"given[0]": gaussian(-0.1, rows=rows)}))
    assert result.improper == {}
    torch.testing.assert_close(result["x"].covariance(), (without["x"] * gaussian(-0.1)).covariance())


def test_improper_beliefs_raise_on_request_and_name_the_edge_and_the_rows():
    with pytest.raises(MessageError, match=r"(?s)a\.given\[0\].*rows 1\b"):
        run_with(lambda rows: Reply({"given[0]": gaussian(NEGATIVE[:rows], rows=rows)}), improper="raise")


def test_improper_messages_keep_the_last_good_one_on_request():
    graph = load_graph(POSITION)
    modules, calls = graph.build(), []

    def fades(rows):  # good when first heard, bad ever after
        calls.append(rows)
        good = gaussian(5.0, rows=rows)
        return Reply({"given[0]": good if len(calls) == 1 else gaussian(NEGATIVE[:rows], rows=rows)})

    modules["a"] = Says(modules["a"], fades)
    evidence = {name: Evidence.of(torch.full((3, width), torch.nan).double()) for name, width in (("a", 1), ("b", 2))}
    passing = pass_messages(graph, modules, evidence, dtype=torch.float64, improper="keep", extra_sweeps=3)
    assert len(calls) > 2
    kept = passing.exchange.messages["a", "given[0]"].precision[:, 0]
    torch.testing.assert_close(kept, torch.tensor([2.0, 5.0, 0.5]).double())
    assert set(passing.exchange.improper) == {"a.given[0]"}


def test_a_product_of_owners_has_no_evidence_and_says_why():
    spec = {
        "serket": 1,
        "variables": {
            "u": {"family": "gaussian", "size": 1},
            "v": {"family": "gaussian", "size": 1},
            "x": {"family": "gaussian", "size": 1, "combine": "product"},
        },
        "modules": {
            "f": {"type": "linear_gaussian", "ports": {"given": "u", "child": "x"}, "matrix": [[1]], "noise": [[1]]},
            "g": {"type": "linear_gaussian", "ports": {"given": "v", "child": "x"}, "matrix": [[2]], "noise": [[1]]},
            "eye": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "d", "matrix": [[1]], "noise": [[0.5]]},
        },
    }
    graph = load_graph(spec)
    result = run(graph, graph.build(), {"eye": Evidence.of(torch.tensor([[1.0]]).double())})
    assert (
        result.log_evidence is None and result.bound == "none" and "x" in result.reason and "product" in result.reason
    )
    assert not result.exact
    # N(0, 1 + 1) times N(0, 4 + 1) times the reading's N(1, 0.5): the product of both owners, each once.
    precision = 1 / 2 + 1 / 5 + 2
    assert float(result["x"].variance()) == pytest.approx(1 / precision)
    assert float(result["x"].mean()) == pytest.approx(2 / precision)


def test_a_robust_product_widens_under_conflict_and_only_there():
    graph = load_graph(SPECS["robust"])
    plain = load_graph(
        {**SPECS["robust"], "composers": {"vote": {**SPECS["robust"]["composers"]["vote"], "robust": 0.0}}}
    )
    agree = torch.tensor([[1.0, -0.5]]).double()
    data = {name: torch.cat([agree, agree]) for name in "abc"}
    data["c"][1] += 8.0
    evidence = {name: Evidence.of(values) for name, values in data.items()}
    wide, narrow = run(graph, graph.build(), evidence), run(plain, plain.build(), evidence)
    assert wide.converged and wide.bound == "none" and not wide.exact and wide.reason
    assert narrow.exact and narrow.bound == "exact"
    ratio = wide["s"].variance() / narrow["s"].variance()
    assert float(ratio[0].max()) < 1.3 and float(ratio[1].min()) > 1.3
    assert float((wide["s"].mean()[1] - agree).abs().max()) < 0.3 < float((narrow["s"].mean()[1] - agree).abs().min())
    for result in (wide, narrow):
        assert float(result.conflict[1]) < -10 < float(result.conflict[0])
