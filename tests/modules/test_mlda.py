"""Latent Dirichlet allocation with categories: its kernel, its integrals, its replies, each against enumeration."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from serket.errors import DataError, GraphError, ShapeError, StateError
from serket.messages import Categorical, Dirichlet, Family
from serket.modules import lda, tokens
from serket.modules.lda import Corpus, Prior, Standing
from serket.modules.mlda import MLDA
from serket.modules.multinomial import Heard
from serket.modules.theta import integrate
from serket.protocol import Evidence, Port, Role
from tests.statistical.checks import co_assignment, largest_z, uniform_p

OWN = frozenset({"category"})
PRIOR = Prior(words=0.8, topics=0.6, strength=1.5, tables=0.7, weights=1.5)
SAYS = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)  # p(o | y), p(o | k)
BLOCK = np.array([0, 0, 0, 1, 1], dtype=np.int32)  # a sense of three words, and one of two
TOPICS = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def dirichlet(alpha, g):
    gammas = torch._standard_gamma(alpha, generator=g)
    return gammas / gammas.sum(-1, keepdim=True)


def pick(probs, g):
    return probs.flatten(0, -2).multinomial(1, generator=g).reshape(probs.shape[:-1])


# ---- The kernel ------------------------------------------------------------------------------------------------------


def prior_draw(chains, rows, per_row, g):
    """Parameters, categories and topics from the prior, theta drawn: not by the code under test."""
    full = lambda alpha, *shape: torch.full((chains, *shape), alpha, dtype=torch.float64)  # noqa: E731
    weights = dirichlet(full(PRIOR.weights, 2), g)
    tables = (dirichlet(full(PRIOR.tables, 2, 2), g).log(),)
    phi = torch.cat([dirichlet(full(PRIOR.words, TOPICS, 3), g), dirichlet(full(PRIOR.words, TOPICS, 2), g)], -1)
    labels = weights.multinomial(rows, replacement=True, generator=g)
    base = PRIOR.topics + PRIOR.strength * torch.eye(2, TOPICS, dtype=torch.float64)
    theta = dirichlet(base[labels], g)
    topics = pick(theta.unsqueeze(-2).expand(-1, -1, per_row, -1), g).int()
    return phi.log(), Standing(topics.flatten().numpy().copy(), labels, tables, weights.log())


def observe(corpus, phi, standing, per_row, g):
    """Words given topics, half of a row's in each sense, and messages from above and below."""
    chains, rows = standing.labels.shape
    topics = torch.from_numpy(standing.topics).reshape(chains, rows, per_row).long()
    chain = torch.arange(chains)[:, None, None]
    probs = phi.exp()[chain, topics]  # (C, N, T, V)
    sense = (torch.arange(per_row) >= per_row // 2).long()
    inside = torch.from_numpy(BLOCK)[None] == sense[:, None]
    words = pick(torch.where(inside, probs, 0.0), g)
    y = pick(standing.tables[0].exp()[torch.arange(chains).unsqueeze(-1), standing.labels], g)
    below, above = (
        (torch.rand(of.shape, dtype=torch.float64, generator=g) > SAYS[of, 0]).long() for of in (y, standing.labels)
    )
    heard = Heard(SAYS.mT.log()[above], torch.zeros(rows, 0), (SAYS.mT[below],))
    return replace(corpus, word=words.flatten().numpy().astype(np.int32)), heard


def functions(phi, standing, corpus, heard):
    chains, rows = standing.labels.shape
    p, table, weights = phi.exp(), standing.tables[0].exp(), standing.log_weights.exp()
    topics = torch.from_numpy(standing.topics).reshape(chains, rows, -1).long()
    word = torch.from_numpy(corpus.word).reshape(topics.shape).long()
    chain = torch.arange(chains).unsqueeze(-1)
    own = topics == standing.labels.unsqueeze(-1)
    return {
        "phi": p[:, 0, 0],
        "phi square": p[:, 1, :3].square().sum(-1),
        "phi of another sense": p[:, 2, 3] ** 2,
        "phi log": phi.mean((1, 2)),
        "table": table[:, 0, 0],
        "table product": table[:, 0, 0] * table[:, 1, 0],
        "weight": weights[:, 0],
        "weight square": weights[:, 0] ** 2,
        "share": (standing.labels == 0).double().mean(-1) * weights[:, 0],
        "own": own.double().mean((1, 2)),
        "own square": own.double().mean((1, 2)) ** 2,
        "same topic": (topics[:, :, 0] == topics[:, :, 1]).double().mean(-1),
        "spare": (topics == 2).double().mean((1, 2)),
        "topic and category": (topics[:, 0, 0] == 0).double() * (standing.labels[:, 0] == 0),
        "fit": p[chain.unsqueeze(-1), topics].gather(-1, word.unsqueeze(-1)).squeeze(-1).mean((1, 2)),
        "word": (word == 0).double().mean((1, 2)) * p[:, 0, 0],
        "table fit": (table[chain, standing.labels] * heard.views[0]).sum((1, 2)),
        "table and label": table[:, 0, 0] * ((standing.labels == 0) * heard.views[0][..., 0]).mean(-1),
        "bias": heard.bias.gather(-1, standing.labels.unsqueeze(-1)).sum((1, 2)),
    }


def corpus_of(chains, rows, per_row):
    start = np.arange(chains * rows + 1) * per_row
    return Corpus(start, np.zeros(start[-1], np.int32), np.ones(start[-1]), BLOCK, rows)


def step(corpus, standing, heard, g):
    standing, by_word, _ = lda.sweep(corpus, standing, heard, TOPICS, PRIOR, g)
    return lda.draw_phi(by_word, corpus.block, g), standing


def geweke(seed, chains=1000, sweeps=30, rows=4, per_row=4):
    g, corpus = generator(seed), corpus_of(chains, rows, per_row)
    phi, standing = prior_draw(chains, rows, per_row, g)
    for _ in range(sweeps):
        corpus, heard = observe(corpus, phi, standing, per_row, g)
        phi, standing = step(corpus, standing, heard, g)
    other = prior_draw(chains, rows, per_row, g)
    return largest_z(functions(phi, standing, corpus, heard), functions(*other, *observe(corpus, *other, per_row, g)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_kernel_leaves_the_joint_invariant(seed):
    assert geweke(seed) <= 4


def words_prior_dropped(patch):
    right = lda.draw_phi
    patch.setattr(lda, "draw_phi", lambda by_word, block, g: right(by_word - 0.7 * PRIOR.words, block, g))


def own_token_left_in(patch):
    right = tokens.sweep_topics

    def wrong(start, word, size, block, topics, by_row, by_word, by_block, rows, seed):
        at = np.arange(len(topics))
        by_row[np.repeat(np.arange(len(start) - 1), np.diff(start)), topics] += (
            1.0  # as if every token were there twice
        )
        right(start, word, size, block, topics, by_row, by_word, by_block, rows, seed)
        by_row -= np.add.reduceat(
            one_hot(torch.from_numpy(topics[at]).long(), by_row.shape[1]).double().numpy(), start[:-1]
        )

    patch.setattr(tokens, "sweep_topics", wrong)


def bias_per_token(patch):
    right = lda.category_scores
    patch.setattr(lda, "category_scores", lambda n, h, t, p: right(n, h, t, p) + (n.sum(-1, keepdim=True) - 1) * h.bias)


def bias_twice(patch):
    right = lda.category_scores
    patch.setattr(lda, "category_scores", lambda n, h, t, p: right(n, h, t, p) + h.bias)


def message_below_twice(patch):
    scores, tables = lda.category_scores, lda.draw_tables
    patch.setattr(
        lda, "category_scores", lambda n, h, t, p: scores(n, replace(h, views=tuple(view**2 for view in h.views)), t, p)
    )
    patch.setattr(lda, "draw_tables", lambda k, m, t, views, a, g: tables(k, m, t, [view**2 for view in views], a, g))


def label_off_by_one(patch):
    right = lda.draw_labels
    patch.setattr(lda, "draw_labels", lambda logits, g: 1 - right(logits, g))


def rows_and_words_swapped(patch):
    """The topics' popularity in the row decides the words, and the other way round: phi and theta counts change places."""
    right = tokens.sweep_topics

    def wrong(start, word, size, block, topics, by_row, by_word, by_block, rows, seed):
        by_row += PRIOR.words - PRIOR.topics
        by_word += PRIOR.topics - PRIOR.words
        right(start, word, size, block, topics, by_row, by_word, by_block, rows, seed)
        by_row -= PRIOR.words - PRIOR.topics
        by_word -= PRIOR.topics - PRIOR.words

    patch.setattr(tokens, "sweep_topics", wrong)


def strength_forgotten(patch):
    right = lda.category_scores
    patch.setattr(lda, "category_scores", lambda n, h, t, p: right(n, h, t, replace(p, strength=p.strength / 3)))


PLANTED = [
    words_prior_dropped, own_token_left_in, bias_per_token, bias_twice, message_below_twice, label_off_by_one,
    rows_and_words_swapped, strength_forgotten,
]  # fmt: skip


@pytest.mark.parametrize("mutation", PLANTED)
def test_planted_mistakes_are_caught(monkeypatch, mutation):
    mutation(monkeypatch)
    assert geweke(0, chains=2500) > 4


def exact(corpus, heard, categories):
    """All categories and topics of one chain, and their probabilities, with y summed out by brute force over tables.

    Of a token of weight w the factors are Gamma(x + w) / Gamma(x), so that the prior of all is a ratio of Gammas.
    """
    rows, size, word = corpus.rows, corpus.size, corpus.word
    owner = corpus.owner
    base = PRIOR.topics + PRIOR.strength * np.eye(categories, TOPICS)
    bias = heard.bias.numpy()
    states, logs = [], []
    for labels in itertools.product(range(categories), repeat=rows):
        labels = np.array(labels)
        held = np.bincount(labels, minlength=categories)
        own = gammaln(PRIOR.weights + held).sum() + bias[np.arange(rows), labels].sum()
        for topics in itertools.product(range(TOPICS), repeat=len(word)):
            topics = np.array(topics)
            by_row, by_word = np.zeros((rows, TOPICS)), np.zeros((len(BLOCK), TOPICS))
            np.add.at(by_row, (owner, topics), size)
            np.add.at(by_word, (word, topics), size)
            value = own + (gammaln(base[labels] + by_row) - gammaln(base[labels])).sum()
            value += gammaln(PRIOR.words + by_word).sum()
            for sense, width in ((0, 3), (1, 2)):
                value -= gammaln(width * PRIOR.words + by_word[sense == BLOCK].sum(0)).sum()
            states.append((labels, topics))
            logs.append(value)
    weights = np.exp(np.array(logs) - max(logs))
    return states, weights / weights.sum()


def enumeration_error(chains, sweeps):
    """Largest error of co-assignment, of categories and of topics, with fractional tokens among the whole ones."""
    counts = torch.tensor([[2.0, 0, 0, 0, 0.5], [0, 1.5, 0, 1, 0], [0.25, 0, 0, 0, 0]])
    one = Corpus.of(counts, [3, 2])
    assert one.size.tolist() == [1, 1, 0.5, 1, 0.5, 1, 0.25] and one.word.tolist() == [0, 0, 4, 1, 1, 3, 0]
    bias = torch.tensor([[0.5, -0.5], [-0.3, 0.3], [0.0, 0.7]], dtype=torch.float64)
    heard = Heard(bias, counts)
    states, weights = exact(one, heard, 2)
    labels = np.array([state[0] for state in states])
    topics = np.array([state[1] for state in states])
    same = lambda x: np.einsum("c,cij->ij", weights, x[:, :, None] == x[:, None, :])  # noqa: E731
    cross = np.einsum("c,cij->ij", weights, labels[:, :, None] == topics[:, None, :])
    g, corpus = generator(5), Corpus.of(counts, [3, 2], chains)
    at = torch.randint(2, (chains, 3), generator=g)
    standing = Standing(lda.own_start(corpus, at, 2, TOPICS, g), at, (), torch.zeros(chains, 2, dtype=torch.float64))
    total, burn = [0.0, 0.0, 0.0], sweeps // 5
    for sweep in range(sweeps):
        standing, _, _ = lda.sweep(corpus, standing, heard, TOPICS, PRIOR, g)
        if sweep >= burn:
            z = torch.from_numpy(standing.topics).reshape(chains, -1)
            total[0] = total[0] + co_assignment(standing.labels)
            total[1] = total[1] + co_assignment(z)
            total[2] = total[2] + (standing.labels.unsqueeze(-1) == z.unsqueeze(-2)).double().mean(0)
    truth = (same(labels), same(topics), cross)
    return max(float(np.abs(a.numpy() / (sweeps - burn) - b).max()) for a, b in zip(total, truth, strict=True))


def test_topics_and_categories_are_those_of_the_exact_posterior():
    assert enumeration_error(chains=400, sweeps=150) < 0.02


@pytest.mark.stat
def test_topics_and_categories_are_those_of_the_exact_posterior_long():
    assert enumeration_error(chains=1000, sweeps=400) < 0.01


def calibration(replications, draws=49, thin=4, rows=6, per_row=6):
    """Ranks of the truth among draws, each replication a chain that starts elsewhere; no function knows labels."""
    g, corpus = generator(11), corpus_of(replications, rows, per_row)
    truth = prior_draw(replications, rows, per_row, g)
    corpus, heard = observe(corpus, *truth, per_row, g)
    phi, standing = prior_draw(replications, rows, per_row, g)
    names = ["phi log", "fit", "table fit", "bias"]
    goal = functions(*truth, corpus, heard)
    ranks, equal = torch.zeros(replications, len(names)), torch.zeros(replications, len(names))
    for sweep in range(60 + draws * thin):
        phi, standing = step(corpus, standing, heard, g)
        if sweep >= 60 and (sweep - 60) % thin == 0:
            now = functions(phi, standing, corpus, heard)
            for index, name in enumerate(names):
                ranks[:, index] += (now[name] < goal[name]).float()
                equal[:, index] += (now[name] == goal[name]).float()
    # Among equals the truth is as likely at any place: one coin for all of them, not one each.
    ranks = ranks + (torch.rand(ranks.shape, generator=g) * (equal + 1)).floor()
    return uniform_p(ranks, draws, bins=10)


def test_ranks_of_the_truth_are_uniform():
    assert calibration(200) > 0.001


@pytest.mark.stat
def test_ranks_of_the_truth_are_uniform_long():
    assert calibration(1000, thin=8) > 0.001


def test_a_start_from_phi_draws_from_it():
    """One token a row: p(z) is base_z phi_z,v."""
    g, rows = generator(0), 20000
    phi = dirichlet(torch.ones(1, TOPICS, 5, dtype=torch.float64), g)
    corpus = Corpus.of(one_hot(torch.full((rows,), 2), 5), [3, 2])
    topics = lda.drawn_start(corpus, torch.zeros(1, rows, dtype=torch.long), phi.log(), PRIOR, g)
    base = torch.tensor([PRIOR.topics + PRIOR.strength, PRIOR.topics, PRIOR.topics], dtype=torch.float64)
    expected = base * phi[0, :, 2]
    found = torch.from_numpy(topics).long().bincount(minlength=3) / rows
    torch.testing.assert_close(found.double(), expected / expected.sum(), rtol=0, atol=0.015)


# ---- Replies ---------------------------------------------------------------------------------------------------------


def build(categories, words=(), views=(), **options):
    ports = {"category": Port(Role.PARENT, Family.CATEGORICAL, categories)}
    ports |= {f"words[{m}]": Port(Role.CHILD, Family.DIRICHLET, size) for m, size in enumerate(words)}
    ports |= {f"categories[{j}]": Port(Role.CHILD, Family.CATEGORICAL, size) for j, size in enumerate(views)}
    return MLDA(ports, **options)


def loaded(categories=2, words=(3, 2), views=(2,), draws=2, seed=0, **options):
    """A module with a random state: draws that are alike, as those of a chain are."""
    g, module = generator(seed), build(categories, words, views, **options)
    near = lambda *shape: torch.randn(1, *shape, generator=g) + 0.2 * torch.randn(draws, *shape, generator=g)  # noqa: E731
    phi = [near(module.topics, size).double().log_softmax(-1) for size in (*words, *(options.get("splits") or []))]
    state = {"words": torch.cat(phi, -1), "log_weights": near(categories).double().log_softmax(-1)}
    state |= {f"table{j}": near(categories, size).double().log_softmax(-1) for j, size in enumerate(views)}
    module.load({**state, "totals": torch.full((len(phi),), 4.0)})
    return module, state


def inbox_of(rows, module, seed=1):
    g = generator(seed)
    box = {}
    for name, port in module.ports.items():
        if port.family == Family.DIRICHLET:
            box[name] = Dirichlet(torch.poisson(torch.full((rows, port.size), 0.7), generator=g).double())
        else:
            box[name] = Categorical(torch.randn(rows, port.size, generator=g, dtype=torch.float64))
    return box


def enumerated(counts, phi, base):
    """Log p(tokens | k) ``(S, K)`` over all topics; E[theta] and E[theta theta'] of each, times it."""
    words = torch.repeat_interleave(torch.arange(len(counts)), counts.long())
    total = torch.zeros(len(phi), len(base), dtype=torch.float64)
    first, second = total.unsqueeze(-1) * 0 * base, 0.0
    for topics in itertools.product(range(base.shape[-1]), repeat=len(words)):
        topics = torch.tensor(topics, dtype=torch.long)
        after = base + topics.bincount(minlength=base.shape[-1])
        prior = (after.lgamma() - base.lgamma()).sum(-1) + base.sum(-1).lgamma() - after.sum(-1).lgamma()
        weight = phi[:, topics, words].prod(-1).unsqueeze(-1) * prior.exp()  # (S, K)
        whole = after.sum(-1, keepdim=True)
        outer = (after.unsqueeze(-1) * after.unsqueeze(-2) + torch.diag_embed(after)) / (whole * (whole + 1)).unsqueeze(
            -1
        )
        total = total + weight
        first = first + weight.unsqueeze(-1) * after / whole
        second = second + weight[..., None, None] * outer
    return total, first, second


@pytest.mark.parametrize(("topics", "alpha"), [(2, 0.5), (3, 0.5), (3, 1.0)])
def test_replies_equal_enumeration_over_topics(topics, alpha):
    """Every assignment of topics to tokens, every draw, category and category below."""
    rows = 4
    module, state = loaded(topics=topics, alpha=alpha)
    box = inbox_of(rows, module)
    reply = module.infer(box, Evidence.none(rows), generator=generator())
    counts = torch.cat([box["words[0]"].counts, box["words[1]"].counts], -1)
    assert 1 < int(counts.sum(-1).max()) < 8
    phi = state["words"].exp()
    base = alpha + 5.0 * torch.eye(2, topics, dtype=torch.float64)
    told = torch.stack([enumerated(row, phi, base)[0] for row in counts])  # (N, S, K)
    table = torch.einsum("ny,sky->nsk", box["categories[0]"].logits.exp(), state["table0"].exp())
    category = (told * table).mean(1)
    error = reply.messages["category"].log_probs() - category.log().log_softmax(-1)
    assert float(error.abs().max()) < 0.01
    said = box["category"].logits.exp().unsqueeze(1)
    assert float((reply.log_evidence - (told * table * said).sum((1, 2)).div(2).log()).abs().max()) < 0.01
    below = torch.einsum("nsk,sky->ny", told * said, state["table0"].exp())
    assert float((reply.messages["categories[0]"].probs - below / below.sum(-1, keepdim=True)).abs().max()) < 0.003
    # Downward to one sense, of which the other is heard and not itself.
    other = torch.cat([0 * box["words[0]"].counts, box["words[1]"].counts], -1)
    for row, weight in enumerate(table * said):
        _, first, second = enumerated(other[row], phi, base)
        total = enumerated(other[row], phi, base)[0]
        norm = (total * weight).sum()
        mean = torch.einsum("sk,skz,szv->v", weight, first, phi[..., :3]) / norm
        square = torch.einsum("sk,skyz,syv,szv->", weight, second, phi[..., :3], phi[..., :3]) / norm
        heard = torch.distributions.Dirichlet(reply.messages["words[0]"].concentration[row])
        torch.testing.assert_close(heard.mean, mean, rtol=0, atol=0.01)
        torch.testing.assert_close(heard.variance.sum(), square - mean.square().sum(), rtol=0.05, atol=0)


def test_fractional_counts_are_exponents_of_the_mixed_words():
    """Against a fine grid on theta, two topics."""
    base = torch.tensor([[5.5, 0.5], [0.5, 5.5]], dtype=torch.float64)
    phi = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]], dtype=torch.float64)
    counts = torch.tensor([[0.5, 0.0, 2.25], [3.3, 0.4, 0.0]], dtype=torch.float64)
    found, _, _ = integrate(counts, phi, base, 16384)
    line = (torch.arange(400000, dtype=torch.float64) + 0.5) / 400000
    theta = torch.stack([line, 1 - line], -1)
    density = torch.distributions.Dirichlet(base.unsqueeze(1)).log_prob(theta)  # (K, G)
    told = (theta @ phi[0]).log() @ counts.mT  # (G, N)
    exact = (density.unsqueeze(-1) + told).logsumexp(1) - math.log(400000)
    torch.testing.assert_close(found[0], exact.mT, rtol=0, atol=0.01)


@pytest.mark.parametrize(("words", "tokens"), [(40, 30), (300, 200)])
def test_messages_of_documents_equal_quadrature_at_the_defaults(words, tokens):
    """Sixteen documents that two categories share, three topics, four draws: sums over the simplex of theta."""
    g = generator(3)
    module, state = loaded(words=(words,), views=(), topics=3, alpha=1.0, draws=4, seed=2)
    counts = torch.poisson(
        tokens * dirichlet(torch.ones(16, 3).double(), g) @ state["words"].exp().mean(0), generator=g
    )
    box = {"category": Categorical.vacuous((16,), 2, dtype=torch.float64), "words[0]": Dirichlet(counts)}
    reply = module.infer(box, Evidence.none(16), generator=generator())
    line = (torch.arange(250, dtype=torch.float64) + 0.5) / 250
    a, b = torch.cartesian_prod(line, line).unbind(-1)
    theta, cell = torch.stack([a, b * (1 - a), (1 - b) * (1 - a)], -1), (1 - a).log() - 2 * math.log(250)
    prior = torch.distributions.Dirichlet(1 + 5 * torch.eye(2, 3, dtype=torch.float64).unsqueeze(1)).log_prob(theta)
    told = torch.stack([(theta @ phi).log() @ counts.mT for phi in state["words"].exp()])  # (S, G, N)
    exact = (told.unsqueeze(1) + (prior + cell).unsqueeze(-1)).logsumexp(2).logsumexp(0).mT - math.log(4)  # (N, K)
    truth = exact.softmax(-1)
    assert int(((truth > 0.02) & (truth < 0.98)).any(-1).sum()) >= 6, "too few documents that are in doubt"
    assert float((reply.messages["category"].probs - truth).abs().max()) < 1e-2
    assert float((reply.log_evidence - exact.logsumexp(-1)).abs().max()) < 0.15


def test_data_of_two_senses_are_predicted_by_what_hears_them():
    module, _ = loaded(words=(), views=(), splits=[3, 2])
    counts = torch.tensor([[2.0, 1, 0, 1, 0], [0, 0, 1, 0, 2], [1, 1, 1, 1, 1]], dtype=torch.float64)
    box = {"category": Categorical(torch.tensor([[9.0, -9], [-9, 9], [0, 0]], dtype=torch.float64))}
    predicted = module.predict(box, generator=generator())
    draws = predicted.sample((4000,))
    assert bool((draws[..., :3].sum(-1) == 4).all() and (draws[..., 3:].sum(-1) == 4).all())
    torch.testing.assert_close(draws.mean(0), predicted.mean, rtol=0, atol=0.15)
    torch.testing.assert_close(draws.var(0), predicted.variance, rtol=0.15, atol=0.1)
    # The means are those of the model: base / sum base times phi, averaged over the draws.
    base = module.prior.topics + module.prior.strength * torch.eye(2, dtype=torch.float64)
    phi = module.state()["words"].exp().mean(0)
    torch.testing.assert_close(predicted.mean[:2], 4 * (base / base.sum(-1, keepdim=True)) @ phi, rtol=1e-5, atol=1e-5)
    assert bool(predicted.log_prob(counts).isfinite().all())
    # A sense that is masked is a sense without words.
    seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [False] * 3 + [True] * 2])
    ask = lambda *evidence: module.infer(box, Evidence.of(*evidence), generator=generator()).messages["category"]  # noqa: E731
    one, other = ask(counts, seen), ask(torch.where(seen, counts, 0.0))
    assert torch.equal(one.logits, other.logits)
    assert not torch.equal(one.logits[1:], ask(counts).logits[1:])


# ---- Fits ------------------------------------------------------------------------------------------------------------


def scenes(seed, rows=150, categories=3, sizes=(20, 12), tokens=(40, 15)):
    """Rows mostly about their category's topic, in two senses; counts, and categories."""
    g = generator(seed)
    truth = torch.arange(rows) % categories
    theta = dirichlet(0.3 + 6.0 * one_hot(truth, categories).double(), g)
    parts = []
    for size, count in zip(sizes, tokens, strict=True):
        phi = dirichlet(torch.full((categories, size), 0.2, dtype=torch.float64), g)
        parts.append(torch.poisson(count * theta @ phi, generator=g))
    return parts, truth


def fitted(parts, seed=0, categories=3, bias=None, owned=OWN, module=None, **options):
    counts = torch.cat(parts, -1)
    module = build(categories, splits=[part.shape[-1] for part in parts], points=256) if module is None else module
    flat = {"category": Categorical.vacuous((len(counts),), categories, dtype=torch.float64)}
    box = flat if bias is None else {"category": bias}
    module.fit(Evidence.of(counts), box, generator=generator(seed), owned=owned, **options)
    reply = module.infer(flat, Evidence.of(counts), generator=generator())
    return module, reply.messages["category"].logits.argmax(-1)


def test_categories_are_found_and_either_sense_tells_them():
    parts, truth = scenes(0)
    module, labels = fitted(parts)
    assert adjusted_rand_score(truth, labels) > 0.9
    counts = torch.cat(parts, -1)
    box = {"category": Categorical.vacuous((150,), 3, dtype=torch.float64)}
    for sense in (slice(0, 20), slice(20, 32)):
        seen = torch.zeros(150, 32, dtype=torch.bool)
        seen[:, sense] = True
        heard = module.infer(box, Evidence.of(counts, seen), generator=generator()).messages["category"].logits
        assert adjusted_rand_score(truth, heard.argmax(-1)) > 0.6


def test_a_fit_from_messages_is_a_fit_from_data():
    parts, _ = scenes(1)
    module, _ = fitted(parts)
    other = build(3, words=(20, 12))
    box = {"category": Categorical.vacuous((150,), 3, dtype=torch.float64)}
    box |= {f"words[{m}]": Dirichlet(part.double()) for m, part in enumerate(parts)}
    other.fit(Evidence.none(150), box, generator=generator(), owned=OWN)
    assert torch.equal(module.state()["words"], other.state()["words"])


def test_fractional_counts_are_heard_without_truncation():
    """Scaled to a third, no cell above one, they still tell the categories; cut to whole numbers they would be nothing."""
    parts, truth = scenes(2)
    small = [part / 1.01 / part.max() for part in parts]
    assert float(torch.cat(small, -1).max()) < 1
    module, labels = fitted([10 * part for part in small])
    assert adjusted_rand_score(truth, labels) > 0.8
    _, labels = fitted([2 * part for part in small])
    assert adjusted_rand_score(truth, labels) > 0.5


def test_topics_of_no_category_are_allowed():
    parts, truth = scenes(3)
    common = dirichlet(torch.full((1, 20), 0.2, dtype=torch.float64), generator(9))
    parts[0] = parts[0] + torch.poisson(40 * common.expand(150, -1), generator=generator(8))
    module = build(3, splits=[20, 12], topics=4, points=256)
    _, labels = fitted(parts, module=module)
    assert adjusted_rand_score(truth, labels) > 0.85
    assert module.state()["words"].shape == (4, 4, 32)


def test_a_warm_start_keeps_labels():
    parts, _ = scenes(4)
    module, before = fitted(parts)
    _, after = fitted(parts, 7, module=module)
    assert float((before == after).float().mean()) > 0.93
    again, _ = fitted(parts, 11, module=module, restart=True)
    assert torch.equal(again.state()["words"], fitted(parts, 11)[0].state()["words"])


@pytest.mark.parametrize("warm", [False, True])
def test_labels_follow_an_informative_message(warm):
    parts, truth = scenes(5)
    names = torch.tensor([2, 0, 1])[truth]
    says = 2.0 * one_hot(names, 3).double()
    says[::4] = 0.0
    module = fitted(parts)[0] if warm else None
    for owned in (OWN, frozenset()):
        found = fitted(parts, 5, bias=Categorical(says), owned=owned, module=module)[1]
        assert float((found == names).float().mean()) > 0.93


def test_empty_rows_teach_nothing_and_a_sense_may_be_missing_everywhere():
    parts, truth = scenes(6)
    module, _ = fitted(parts)
    holes, _ = fitted([torch.cat([part, torch.zeros(10, part.shape[-1])]) for part in parts])
    assert torch.equal(module.state()["words"], holes.state()["words"])
    parts[1] = 0 * parts[1]
    module, labels = fitted(parts)
    assert adjusted_rand_score(truth, labels) > 0.85
    assert all(bool(values.isfinite().all()) for values in module.state().values())


def test_categories_called_by_other_names_say_the_same():
    module, order = MLDA({"category": Port(Role.PARENT, Family.CATEGORICAL, 3)}, topics=4), torch.tensor([2, 0, 1])
    g = generator()
    words, weights = dirichlet(torch.ones(2, 4, 5), g).log(), dirichlet(torch.ones(2, 3), g).log()
    module.load({"words": words, "log_weights": weights, "totals": torch.ones(1)})
    counts = Evidence.of(torch.randint(0, 4, (6, 5), generator=g).double())
    silence = {"category": Categorical.vacuous((6,), 3, dtype=torch.float64)}
    before = module.infer(silence, counts, generator=g).messages["category"].logits
    module.relabel("category", order)
    assert torch.equal(module.state()["words"][:, 3], words[:, 3])  # the topic that is nobody's own
    after = module.infer(silence, counts, generator=g).messages["category"].logits
    torch.testing.assert_close(after, before[:, order], rtol=0.02, atol=0.02)


def test_bad_input_is_named():
    parts, _ = scenes(7)
    bad = [parts[0].clone(), parts[1]]
    bad[0][3, 2] = -1
    with pytest.raises(DataError, match=r"(?s)rows 3.*-1"):
        fitted(bad)
    for few in ([part[:2] for part in parts], [0 * part for part in parts]):
        with pytest.raises(DataError, match="too few rows"):
            fitted(few)
    one, _ = fitted([part[:1] for part in parts], categories=1)
    assert bool(one.state()["words"].isfinite().all())
    for options in ({"alpha": 0.0}, {"strength": math.nan}, {"draws": 0}, {"points": 0}, {"topics": 2}):
        with pytest.raises(GraphError, match=next(iter(options))):
            build(3, **options)
    with pytest.raises(GraphError, match="sweeps"):
        fitted(parts, sweeps=3)
    with pytest.raises(ShapeError, match="splits"):
        fitted(parts, module=build(3, splits=[20, 11]))
    module, state = loaded()
    with pytest.raises(StateError, match="fitted"):
        build(2).infer(inbox_of(2, build(2)), Evidence.none(2), generator=generator())
    with pytest.raises(StateError, match="totals"):
        module.load(state)
    with pytest.raises(StateError, match="table0"):
        module.load({name: part for name, part in state.items() if name != "table0"})
    with pytest.raises(GraphError, match="without data"):
        module.predict(inbox_of(2, module), generator=generator())
    with pytest.raises(ShapeError, match="fitted on"):
        fitted(parts[:1], module=fitted(parts)[0])
