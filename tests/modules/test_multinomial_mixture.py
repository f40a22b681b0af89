"""The count mixture: its kernel against exact posteriors and Geweke's test, its replies against enumeration."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from serket.errors import DataError, GraphError, MessageError, ShapeError, StateError
from serket.messages import Categorical, Dirichlet, Family
from serket.modules import multinomial
from serket.modules.counts import matched
from serket.modules.multinomial import Heard, Prior, Profiles
from serket.modules.multinomial_mixture import MultinomialMixture
from serket.protocol import Evidence, Port, Role
from tests.statistical.checks import co_assignment, largest_z, uniform_p

OWN = frozenset({"category"})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(categories, words=None, views=(), **options):
    ports = {"category": Port(Role.PARENT, Family.CATEGORICAL, categories)}
    if words:
        ports["words"] = Port(Role.CHILD, Family.DIRICHLET, words)
    for index, size in enumerate(views):
        ports[f"categories[{index}]"] = Port(Role.CHILD, Family.CATEGORICAL, size)
    return MultinomialMixture(ports, **options)


def flat(rows, categories, dtype=torch.float64):
    return {"category": Categorical.vacuous((rows,), categories, dtype=dtype)}


def documents(seed, rows=200, words=30, topics=4, tokens=60):
    """Counts of rows whose categories are easily told, and the categories."""
    g = generator(seed)
    phi = torch._standard_gamma(torch.full((topics, words), 0.3), generator=g)
    labels = torch.arange(rows) % topics
    return torch.poisson(tokens * (phi / phi.sum(-1, keepdim=True))[labels], generator=g), labels


def fitted(counts, seed=0, categories=4, bias=None, owned=OWN, module=None, **options):
    module = build(categories) if module is None else module
    inbox = flat(len(counts), categories) if bias is None else {"category": bias}
    module.fit(Evidence.of(counts), inbox, generator=generator(seed), owned=owned, **options)
    reply = module.infer(flat(len(counts), categories), Evidence.of(counts), generator=generator())
    return module, reply.messages["category"].logits.argmax(-1)


# ---- The kernel ------------------------------------------------------------------------------------------------------

PRIOR = Prior(words=0.8, tables=0.7, weights=1.5)
SAYS = torch.tensor([[0.8, 0.2], [0.3, 0.7]])  # p(o | y), p(o | k): what modules below and above see


def dirichlet(alpha, shape, g):
    gammas = torch._standard_gamma(torch.full(shape, alpha), generator=g)
    return gammas / gammas.sum(-1, keepdim=True)


def prior_draw(chains, rows, g):
    """Parameters and labels from the prior, not by the code under test."""
    weights = dirichlet(PRIOR.weights, (chains, 2), g)
    profiles = Profiles(
        dirichlet(PRIOR.words, (chains, 2, 3), g).log(),
        (dirichlet(PRIOR.tables, (chains, 2, 2), g).log(),),
        weights.log(),
    )
    return profiles, weights.multinomial(rows, replacement=True, generator=g)


def observe(profiles, labels, g):
    """Counts, a message from below and one from above, given all; the last row has nothing but the last."""
    chain = torch.arange(len(labels)).unsqueeze(-1)
    phi = profiles.words.exp()[chain, labels]
    tokens = torch.arange(labels.shape[-1]) % 4 + 1
    words = phi.unsqueeze(-2).expand(-1, -1, 4, -1).flatten(0, 2).multinomial(1, generator=g)
    words = one_hot(words.reshape(*labels.shape, 4), 3) * (torch.arange(4) < tokens.unsqueeze(-1)).unsqueeze(-1)
    y = profiles.tables[0].exp()[chain, labels].flatten(0, 1).multinomial(1, generator=g).reshape(labels.shape)
    below, above = ((torch.rand(labels.shape, generator=g) < SAYS[of, 0]).logical_not().long() for of in (y, labels))
    view, silent = SAYS.mT[below], torch.arange(labels.shape[-1]) == labels.shape[-1] - 1
    view = torch.where(silent.unsqueeze(-1), 0.5, view)
    counts = torch.where(silent.unsqueeze(-1), 0, words.sum(-2)).float()
    return Heard(SAYS.mT.log()[above], counts, (view,), True)


def functions(profiles, labels, heard):
    phi, table = profiles.words.exp(), profiles.tables[0].exp()
    weights = profiles.log_weights.exp()
    return {
        "phi": phi[:, 0, 0],
        "phi log": profiles.words.mean((1, 2)),
        "phi square": phi[:, 1].square().sum(-1),
        "table": table[:, 0, 0],
        "table square": table[:, 1, 1] ** 2,
        "table product": table[:, 0, 0] * table[:, 1, 0],
        "weight": weights[:, 0],
        "weight square": weights[:, 0] ** 2,
        "share": (labels == 0).float().mean(-1) * weights[:, 0],
        "together": (labels[:, 0] == labels[:, 1]).float(),
        "word and label": heard.counts[:, 0, 0] * phi[:, 0, 0],
        "fit": (phi[torch.arange(len(labels)).unsqueeze(-1), labels] * heard.counts).sum((1, 2)),
        "table fit": (table[torch.arange(len(labels)).unsqueeze(-1), labels] * heard.views[0]).sum((1, 2)),
        "bias": heard.bias.gather(-1, labels.unsqueeze(-1)).sum((1, 2)),
    }


def geweke(seed, chains=1000, sweeps=30, rows=5):
    g = generator(seed)
    profiles, labels = prior_draw(chains, rows, g)
    for _ in range(sweeps):
        heard = observe(profiles, labels, g)
        profiles, labels, _ = multinomial.sweep(profiles, heard, PRIOR, g)
    other, others = prior_draw(chains, rows, g)
    return largest_z(functions(profiles, labels, heard), functions(other, others, observe(other, others, g)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kernel_leaves_the_joint_invariant(seed):
    assert geweke(seed) <= 4


def prior_dropped(patch):
    right = multinomial.draw_dirichlet
    patch.setattr(
        multinomial, "draw_dirichlet", lambda alpha, g: right(alpha - 0.7 * PRIOR.words * (alpha.dim() > 2), g)
    )


def bias_twice(patch):
    right = multinomial.label_logits
    patch.setattr(multinomial, "label_logits", lambda p, h, power=1.0: right(p, h, power) + h.bias)


def weights_twice(patch):
    right = multinomial.label_logits
    patch.setattr(multinomial, "label_logits", lambda p, h, w=1.0: right(p, h, w) + p.log_weights.unsqueeze(-2))


def bias_per_token(patch):
    right = multinomial.label_logits
    more = lambda h: (h.counts.sum(-1, keepdim=True) - 1).clamp_min(0) * h.bias  # noqa: E731
    patch.setattr(multinomial, "label_logits", lambda p, h, power=1.0: right(p, h, power) + more(h))


def label_off_by_one(patch):
    right = multinomial.draw_labels
    patch.setattr(multinomial, "draw_labels", lambda logits, g: right(logits, g).roll(1, -1))


def message_twice_below(patch):
    right = multinomial.draw_tables
    patch.setattr(
        multinomial, "draw_tables", lambda k, m, t, views, a, g: right(k, m, t, [view**2 for view in views], a, g)
    )


def table_of_another(patch):
    right = multinomial.draw_tables
    patch.setattr(multinomial, "draw_tables", lambda k, m, t, v, a, g: right(k, m.flip(-1), t, v, a, g))


PLANTED = [
    prior_dropped,
    bias_twice,
    weights_twice,
    bias_per_token,
    label_off_by_one,
    message_twice_below,
    table_of_another,
]


@pytest.mark.parametrize("mutation", PLANTED)
def test_planted_mistakes_are_caught(monkeypatch, mutation):
    mutation(monkeypatch)
    assert geweke(0, chains=3000) > 4


def exact_posterior(counts, view, bias, prior):
    """Configurations of labels and y, and their weights, theta and pi integrated out."""
    rows, categories = bias.shape
    sizes = [range(categories)] * rows + [range(view.shape[-1])] * rows
    found, weights = [], []
    log_b = lambda alpha: gammaln(alpha).sum(-1) - gammaln(alpha.sum(-1))  # noqa: E731
    for configuration in itertools.product(*sizes):
        labels, y = np.array(configuration[:rows]), np.array(configuration[rows:])
        members = np.eye(categories)[labels]
        seen = np.eye(view.shape[-1])[y] * (view != view[:, :1]).any(-1, keepdims=True)
        value = bias[np.arange(rows), labels].sum() + np.log(view[np.arange(rows), y]).sum()
        value += log_b(prior.weights + members.sum(0)) + log_b(prior.words + members.T @ counts).sum()
        weights.append(value + log_b(prior.tables + members.T @ seen).sum())
        found.append(labels)
    weights = np.exp(np.array(weights) - np.max(weights))
    return np.array(found), weights / weights.sum()


def co_assignment_error(rows, categories, chains, sweeps):
    g = generator(3)
    counts = torch.tensor([[3, 0, 1], [2, 0.5, 0], [0, 2, 1], [0, 1, 2], [1, 1, 1.5], [0, 0, 2]])[:rows]
    view = torch.rand(rows, 2, generator=g) + 0.1
    bias = torch.randn(rows, categories, generator=g)
    labels, weights = exact_posterior(counts.numpy(), view.numpy(), bias.double().numpy(), PRIOR)
    truth = np.einsum("c,cij->ij", weights, labels[:, :, None] == labels[:, None, :])
    heard = Heard(bias, counts, (view,))
    at = torch.randint(categories, (chains, rows), generator=g)
    profiles = multinomial.draw_profiles(at, [torch.zeros(chains, categories, 2)], heard, PRIOR, g)
    total, burn = 0.0, sweeps // 5
    for step in range(sweeps):
        profiles, at, _ = multinomial.sweep(profiles, heard, PRIOR, g)
        total = total + (co_assignment(at) if step >= burn else 0)
    return float((total / (sweeps - burn) - torch.from_numpy(truth)).abs().max())


def test_co_assignments_are_those_of_the_exact_posterior():
    assert co_assignment_error(rows=4, categories=3, chains=400, sweeps=150) < 0.02


@pytest.mark.stat
def test_co_assignments_are_those_of_the_exact_posterior_long():
    assert co_assignment_error(rows=6, categories=3, chains=1000, sweeps=400) < 0.01


def calibration(replications, draws=99, thin=3, rows=8):
    """Ranks of the true parameters among draws, each replication a chain: functions that no relabelling changes."""
    g = generator(11)
    truth, labels = prior_draw(replications, rows, g)
    heard = observe(truth, labels, g)
    # A start that the truth does not know: the kernel forgets it.
    profiles, at = prior_draw(replications, rows, g)
    names = ["phi log", "together", "fit", "table fit", "bias"]
    goal = functions(truth, labels, heard)
    ranks, equal = torch.zeros(replications, len(names)), torch.zeros(replications, len(names))
    for step in range(60 + draws * thin):
        profiles, at, _ = multinomial.sweep(profiles, heard, PRIOR, g)
        if step >= 60 and (step - 60) % thin == 0:
            now = functions(profiles, at, heard)
            for index, name in enumerate(names):
                ranks[:, index] += (now[name] < goal[name]).float()
                equal[:, index] += (now[name] == goal[name]).float()
    # Among equals the truth is as likely at any place: one coin for all of them, not one each.
    ranks = ranks + (torch.rand(ranks.shape, generator=g) * (equal + 1)).floor()
    return uniform_p(ranks, draws)


def test_ranks_of_the_truth_are_uniform():
    assert calibration(200) > 0.001


@pytest.mark.stat
def test_ranks_of_the_truth_are_uniform_long():
    assert calibration(1000, thin=6) > 0.001


# ---- Replies ---------------------------------------------------------------------------------------------------------


def loaded(draws=3, categories=3, words=4, views=(2, 3), port=True, seed=0):
    g = generator(seed)
    state = {
        "words": torch.randn(draws, categories, words, generator=g, dtype=torch.float64).log_softmax(-1),
        "log_weights": torch.randn(draws, categories, generator=g, dtype=torch.float64).log_softmax(-1),
        "total": torch.tensor(5.0),
    }
    for index, size in enumerate(views):
        table = torch.randn(draws, categories, size, generator=g, dtype=torch.float64)
        state[f"table{index}"] = table.log_softmax(-1)
    module = build(categories, words if port else None, views)
    module.load(state)
    return module, state


def inbox_of(rows, categories=3, words=4, views=(2, 3), seed=1):
    g = generator(seed)
    box = {"category": Categorical(torch.randn(rows, categories, generator=g, dtype=torch.float64))}
    if words:
        box["words"] = Dirichlet(3 * torch.rand(rows, words, generator=g, dtype=torch.float64))
    for index, size in enumerate(views):
        box[f"categories[{index}]"] = Categorical(torch.randn(rows, size, generator=g, dtype=torch.float64))
    return box


def test_replies_equal_enumeration():
    """Over draws, categories and what hangs on them: p(s, k, y_0, y_1) prod of what is said, summed over the rest."""
    module, state = loaded()
    box = inbox_of(5)
    reply = module.infer(box, Evidence.none(5), generator=generator())
    said = {name: one.logits.exp() for name, one in box.items() if name != "words"}
    words = torch.exp(torch.einsum("nv,skv->nsk", box["words"].counts, state["words"]))
    joint = (
        torch.einsum("nsk,ska,skb,nk,na,nb->nskab", words, state["table0"].exp(), state["table1"].exp(), *said.values())
        / 3
    )
    torch.testing.assert_close(reply.log_evidence, joint.sum((1, 2, 3, 4)).log())
    expected = {
        "category": joint.sum((1, 3, 4)) / said["category"],
        "categories[0]": joint.sum((1, 2, 4)) / said["categories[0]"],
        "categories[1]": joint.sum((1, 2, 3)) / said["categories[1]"],
    }
    for name, potential in expected.items():
        torch.testing.assert_close(reply.messages[name].probs, potential / potential.sum(-1, keepdim=True))
    weights = (joint.sum((3, 4)) / words).flatten(1)
    weights = weights / weights.sum(-1, keepdim=True)
    phi = state["words"].exp().flatten(0, 1)
    pi = torch.distributions.Dirichlet(reply.messages["words"].concentration)
    mean = weights @ phi
    torch.testing.assert_close(pi.mean, mean)
    spread = weights @ phi.square().sum(-1) - mean.square().sum(-1)
    torch.testing.assert_close(pi.variance.sum(-1), spread)


def test_data_are_heard_with_their_coefficient_and_predicted_by_the_same_density():
    module, state = loaded(port=False, views=())
    counts = torch.tensor([[2.0, 1, 0, 4], [0, 0, 0.5, 3.25], [1, 1, 1, 1]], dtype=torch.float64)
    box = {"category": inbox_of(3)["category"]}
    reply = module.infer(box, Evidence.of(counts), generator=generator())
    order = torch.lgamma(counts.sum(-1) + 1) - torch.lgamma(counts + 1).sum(-1)
    each = torch.einsum("nv,skv->nsk", counts, state["words"]).logsumexp(1) - math.log(3) + order.unsqueeze(-1)
    torch.testing.assert_close(reply.messages["category"].logits, each)
    predicted = module.predict(box, generator=generator())
    torch.testing.assert_close(
        predicted.log_prob(counts), (box["category"].log_probs() + each).logsumexp(-1), rtol=1e-10, atol=1e-10
    )
    draws = predicted.sample((4000,))
    assert draws.shape == (4000, 3, 4) and bool((draws.sum(-1) == 5).all())
    torch.testing.assert_close(draws.mean(0), predicted.mean, rtol=0, atol=0.12)
    torch.testing.assert_close(draws.var(0), predicted.variance, rtol=0.1, atol=0.1)


def test_parts_that_agree_are_a_certain_and_proper_message():
    phi = torch.tensor([[0.999999, 1e-6, 0.0], [0.999999, 1e-6, 0.0]])
    sure = matched(phi.mean(0, keepdim=True), phi.square().sum(-1)[:1])
    assert bool(sure.is_proper().all()) and float(sure.concentration.sum()) > 1e3


# ---- Fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float32])
def test_categories_are_found(kind):
    counts, truth = documents(0)
    assert adjusted_rand_score(truth, fitted(counts.to(kind))[1]) > 0.97


def test_a_fit_from_messages_is_a_fit_from_data():
    counts, truth = documents(1)
    module, box = build(4, 30), {**flat(200, 4), "words": Dirichlet(counts.double())}
    module.fit(Evidence.none(200), box, generator=generator(), owned=OWN)
    labels = module.infer(box, Evidence.none(200), generator=generator()).messages["category"].logits.argmax(-1)
    assert adjusted_rand_score(truth, labels) > 0.97
    assert torch.equal(module.state()["words"], fitted(counts)[0].state()["words"])


def test_categories_below_are_enough_and_their_table_is_learnt():
    g = generator(2)
    truth = torch.arange(300) % 3
    table = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    heard = [
        Categorical(20.0 * one_hot(table[truth].multinomial(1, generator=g).squeeze(-1), 3).double()) for _ in range(4)
    ]
    box = {**flat(300, 3), **{f"categories[{index}]": one for index, one in enumerate(heard)}}
    module = build(3, views=[3] * 4)
    module.fit(Evidence.none(300), box, generator=g, owned=OWN)
    reply = module.infer(box, Evidence.none(300), generator=g)
    assert adjusted_rand_score(truth, reply.messages["category"].logits.argmax(-1)) > 0.9
    learnt = module.state()["table0"].exp().mean(0)
    seen = one_hot(truth, 3).double().mT @ heard[0].probs / 100
    torch.testing.assert_close(learnt.amax(-1).sort().values.double(), seen.amax(-1).sort().values, rtol=0, atol=0.06)


def test_a_message_moves_a_row_once_however_long_it_is():
    """Two categories of equal words: what is left is the message, and the reply does not grow with the document."""
    module, state = loaded(1, 2, 4, views=(), port=False)
    module.load({**state, "words": state["words"][:, :1].expand(-1, 2, -1)})
    box = {"category": Categorical(torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64))}
    reply = module.infer(box, Evidence.of(torch.tensor([[1.0, 0, 0, 0], [90.0, 80, 70, 60]])), generator=generator())
    gap = (reply.messages["category"] * box["category"]).logits
    torch.testing.assert_close(gap[:, 0] - gap[:, 1], torch.ones(2, dtype=torch.float64))


def test_a_warm_start_keeps_labels_and_a_restart_does_not_depend_on_it():
    counts, _ = documents(3)
    module, before = fitted(counts)
    _, after = fitted(counts[torch.randperm(200, generator=generator())], 7, module=module)
    module, _ = fitted(counts, 8, module=module)
    assert float((before == fitted(counts, 9, module=module)[1]).double().mean()) > 0.98
    again, _ = fitted(counts, 11, module=module, restart=True)
    assert torch.equal(again.state()["words"], fitted(counts, 11)[0].state()["words"])
    with pytest.raises(ShapeError):
        fitted(counts[:, :-1], module=module)


@pytest.mark.parametrize("warm", [False, True])
def test_labels_follow_an_informative_message(warm):
    counts, truth = documents(4)
    names = torch.tensor([2, 0, 3, 1])[truth]
    says = 2.0 * one_hot(names, 4).double()
    says[::3] = 0.0  # a third of the rows say nothing
    module = fitted(counts)[0] if warm else None
    for owned in (OWN, frozenset()):
        assert (
            float((fitted(counts, 5, bias=Categorical(says), owned=owned, module=module)[1] == names).float().mean())
            > 0.97
        )


def test_weights_are_learnt_only_if_owned():
    counts, truth = documents(5)
    counts = torch.cat([counts, counts[truth == 0]] * 2)
    probs = fitted(counts)[0].own_prior["category"].probs.sort().values
    torch.testing.assert_close(probs, torch.tensor([0.2, 0.2, 0.2, 0.4]), rtol=0, atol=0.05)
    assert bool(fitted(counts, owned=frozenset())[0].own_prior["category"].is_vacuous())


def test_counts_are_read_as_so_many_tokens():
    counts, truth = documents(6)
    plain = build(4, tokens=20.0)
    module, labels = fitted(counts, module=plain)
    assert adjusted_rand_score(truth, labels) > 0.9
    reply = module.infer(flat(200, 4), Evidence.of(counts), generator=generator())
    assert reply.bound == "estimate"
    scaled = counts * 20 / counts.sum(-1, keepdim=True)
    other = build(4)
    other.load(module.state())
    full = other.infer(flat(200, 4), Evidence.of(scaled.double()), generator=generator())
    a, b = (one.messages["category"].log_probs() for one in (reply, full))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reply.log_evidence, full.log_evidence, rtol=1e-4, atol=1e-4)


def test_empty_documents_are_vacuous_and_teach_nothing():
    counts, _ = documents(7)
    holes = torch.cat([counts, torch.zeros(20, 30)])
    module, _ = fitted(holes)
    assert torch.equal(module.state()["words"], fitted(counts)[0].state()["words"])
    reply = module.infer(flat(220, 4), Evidence.of(holes), generator=generator())
    assert bool((reply.messages["category"].logits[200:] == 0).all())
    # ... unless another module knows their category: then they count for the weights, and for nothing else.
    says = torch.zeros(220, 4, dtype=torch.float64)
    says[200:, 1] = 30.0
    more, _ = fitted(torch.cat([counts, torch.zeros(20, 30)]), bias=Categorical(says))
    assert float(more.own_prior["category"].probs[1]) > 0.27


def test_bad_input_is_named():
    counts, _ = documents(8)
    bad = counts.clone()
    bad[3, 2] = -1
    with pytest.raises(DataError, match=r"(?s)rows 3.*-1"):
        fitted(bad)
    with pytest.raises(DataError, match="rows 3"):
        fitted(counts)[0].infer(flat(200, 4), Evidence.of(bad), generator=generator())
    infinite = Evidence(torch.arange(200), torch.where(bad < 0, torch.inf, bad), torch.ones(200, dtype=torch.bool))
    with pytest.raises(DataError, match="rows 3"):
        build(4).fit(infinite, flat(200, 4), generator=generator())
    for few in (counts[:3], 0 * counts, torch.full_like(counts, math.nan)):
        with pytest.raises(DataError, match="too few rows"):
            fitted(few)
    one, _ = fitted(counts[:1], categories=1)  # one row, one category: its own words, and the prior
    assert bool(one.state()["words"].isfinite().all())
    with pytest.raises(MessageError, match="negative counts"):
        box = {**flat(2, 4), "words": Dirichlet(-0.5 * torch.ones(2, 30, dtype=torch.float64))}
        build(4, 30).fit(Evidence.none(2), box, generator=generator())
    with pytest.raises(GraphError, match="both"):
        build(4, 30).fit(
            Evidence.of(counts), {**flat(200, 4), "words": Dirichlet(counts.double())}, generator=generator()
        )
    for options in ({"alpha": 0.0}, {"draws": 0}, {"prior": -1.0}, {"tokens": math.nan}):
        with pytest.raises(GraphError, match=next(iter(options))):
            build(4, **options)
    for options in ({"sweeps": 0}, {"sweeps": 10}, {"restarts": 0}):
        with pytest.raises(GraphError, match=next(iter(options))):
            fitted(counts, **options)
    with pytest.raises(StateError, match="fitted"):
        build(4).infer(flat(3, 4), Evidence.of(counts[:3]), generator=generator())
    module, state = loaded()
    with pytest.raises(StateError, match="table1"):
        module.load({name: part for name, part in state.items() if name != "table1"})
    with pytest.raises(StateError, match="words"):
        module.load({**state, "words": torch.zeros(3, 2, 4)})
    with pytest.raises(ShapeError):
        fitted(counts)[0].infer(flat(2, 4), Evidence.of(counts[:2, :5]), generator=generator())
    with pytest.raises(GraphError, match="words"):
        module.predict(inbox_of(2), generator=generator())


def test_rows_without_counts_are_heard_through_what_hangs_below():
    module, state = loaded()
    box = inbox_of(4)
    box["words"] = replace(box["words"], counts=0 * box["words"].counts)
    reply = module.infer(box, Evidence.none(4), generator=generator())
    tables = [state[f"table{i}"].exp() @ box[f"categories[{i}]"].probs.mT.unsqueeze(0) for i in (0, 1)]  # (S, K, rows)
    expected = (tables[0] * tables[1]).mean(0).mT
    torch.testing.assert_close(reply.messages["category"].probs, expected / expected.sum(-1, keepdim=True))
