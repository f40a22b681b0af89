"""The joint composer as a module: linear replies in closed form, an honest bound, refusals, and a fit that finds."""

import itertools
import math

import pytest
import torch

from serket.composer import JointComposer
from serket.composer.joint import experts as experts_of_joint
from serket.errors import DataError, GraphError, MessageError
from serket.graph import load_graph
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role
from tests.composer.problems import generator, random

KINDS = ["jmvae", "telbo", "mvae", "mmvae", "mopoe", "mvtcae", "mmjsd", "mmvae_plus", "dmvae"]


def build(sizes=(2, 2), shared=2, **options):
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, shared)}
    ports |= {f"views[{m}]": Port(Role.CHILD, Family.GAUSSIAN, size) for m, size in enumerate(sizes)}
    return JointComposer(ports, **options)


def inbox_of(messages, shared=2, above=None):
    like = messages[0].info
    own = Gaussian.standard((len(like),), shared, dtype=like.dtype)
    return {"shared": above or own} | {f"views[{m}]": message for m, message in enumerate(messages)}


def world(seed, rows, sizes=(2, 2, 2), precision=5.0):
    """z = A s + noise with s of two dimensions, seen with a precision."""
    g = generator(seed)
    s = random(g, rows, 2)
    messages = []
    for size in sizes:
        z = 1.0 + s @ random(g, 2, size) + 0.5 * random(g, rows, size)
        lam = precision * (0.5 + torch.rand(rows, size, generator=g, dtype=torch.float64))
        messages.append(Gaussian(lam * (z + random(g, rows, size) / lam.sqrt()), lam))
    return messages


def fit(composer, messages, seed=0, **options):
    report = composer.fit(Evidence.none(len(messages[0].info)), inbox_of(messages, composer.size),
                          generator=generator(seed), **options)  # fmt: skip
    return report


def infer(composer, inbox, seed=0):
    return composer.infer(inbox, Evidence.none(len(inbox["shared"].info)), generator=generator(seed))


class Linear:
    """A composer with linear maps, told its weights: z = location + scale (A s + B w + e), e ~ N(0, v), in two views.

    Loadings are diagonal, so that diagonal encoders can be exact: the potential of a view is that of its likelihood.
    """

    location = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    scale = torch.tensor([[2.0, 0.5], [1.5, 0.1]], dtype=torch.float64)
    loading = torch.tensor([[0.9, -0.6], [0.7, 1.1]], dtype=torch.float64)
    own = torch.tensor([[[0.5, 0.2], [-0.3, 0.4]], [[0.1, 0.6], [0.2, -0.7]]], dtype=torch.float64)
    noise = torch.tensor([[0.4, 0.3], [0.2, 0.6]], dtype=torch.float64)
    lam = torch.tensor([[3.0, 1.0], [2.0, 5.0]], dtype=torch.float64)  # in units

    def __init__(self, objective="mvae"):
        self.private = 2 if objective == "dmvae" else 0
        self.composer = build(objective=objective, hidden=[], **({"private": 2} if self.private else {}))
        state = {}
        for m, name in enumerate(("views[0]", "views[1]")):
            seen = 1 / (self.noise[m] + 1 / self.lam[m])
            known = self.lam[m] / (1 + self.lam[m])
            rows, zeros = torch.zeros(2 * (2 + self.private), 4).double(), torch.zeros(2 + self.private).double()
            rows[:2, :2] = (self.loading[m] * seen / known).diag()
            precision = self.loading[m].square() * seen
            if self.private:  # knows nothing of w
                precision = torch.cat([precision, torch.full((2,), 1e-4).double()])
            state |= {f"{name}.encoder.0.weight": rows,
                      f"{name}.encoder.0.bias": torch.cat([zeros, torch.log(torch.expm1(precision - 1e-6))]),
                      f"{name}.decoder.0.weight": self.maps(m), f"{name}.decoder.0.bias": torch.zeros(2).double(),
                      f"{name}.log_variance": (self.noise[m] - 1e-3).log(),
                      f"{name}.location": self.location[m], f"{name}.scale": self.scale[m]}  # fmt: skip
        self.composer.load(state)

    def maps(self, m):
        return torch.cat([self.loading[m].diag(), self.own[m]], 1) if self.private else self.loading[m].diag()

    def messages(self, seed, rows, full=False):
        """With the precision the encoders expect; or full ones, which they were not made for."""
        g = generator(seed)
        told = []
        for m in range(2):
            u = random(g, rows, 2)
            lam = (self.lam[m] / self.scale[m].square()).expand(rows, 2)
            message = Gaussian(lam * (self.location[m] + self.scale[m] * u), lam)
            if full:
                root = random(g, rows, 2, 2)
                message = message * Gaussian(torch.zeros(rows, 2).double(), root @ root.mT)
            told.append(message)
        return told

    def truth(self, m, s_mean, s_covariance):
        """Moments of z_m given those of s."""
        a = torch.cat([self.loading[m].diag()], 1)
        b = self.own[m] if self.private else torch.zeros(2, 1).double()
        covariance = a @ s_covariance @ a.T + b @ b.T + self.noise[m].diag()
        return self.location[m] + self.scale[m] * (s_mean @ a.T), self.scale[m].outer(self.scale[m]) * covariance

    def evidence(self, messages, above):
        """log of the integral of everything, densely, (rows,)."""
        rows = len(above.info)
        found = []
        for row in range(rows):
            info, lam = torch.zeros(6).double(), torch.zeros(6, 6).double()
            info[:2], lam[:2, :2] = above.info[row], above.full().precision[row]
            constant = 0.0
            for m in range(2):
                z = slice(2 + 2 * m, 4 + 2 * m)
                a = self.scale[m].unsqueeze(1) * self.loading[m].diag()
                b = self.scale[m].unsqueeze(1) * (self.own[m] if self.private else torch.zeros(2, 2).double())
                covariance = b @ b.T + (self.scale[m].square() * self.noise[m]).diag()
                wide = torch.zeros(2, 6).double()
                wide[:, z], wide[:, :2] = torch.eye(2).double(), -a
                precision = torch.linalg.inv(covariance)
                info += wide.T @ precision @ self.location[m]
                lam += wide.T @ precision @ wide
                constant -= (
                    float(self.location[m] @ precision @ self.location[m] + torch.logdet(2 * math.pi * covariance)) / 2
                )
                info[z] += messages[m].info[row]
                lam[z, z] += messages[m].full().precision[row]
            found.append(float(Gaussian(info, lam).log_z()) + constant)
        return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("objective", ["mvae", "dmvae"])
def test_linear_replies_are_closed_form(objective):
    """A view hears p(z | s's inbox, the other view) exactly, in its own units, private part and all."""
    linear = Linear(objective)
    messages = linear.messages(0, 5)
    g = generator(1)
    root = random(g, 5, 2, 2)
    above = Gaussian(random(g, 5, 2), root @ root.mT + 0.5 * torch.eye(2))
    reply = infer(linear.composer, inbox_of(messages, above=above))
    for m in range(2):
        other = 1 - m
        u = (messages[other].info / messages[other].precision - linear.location[other]) / linear.scale[other]
        seen = 1 / (linear.noise[other] + 1 / linear.lam[other])
        told = Gaussian(linear.loading[other] * seen * u, (linear.loading[other].square() * seen).expand(5, 2))
        torch.testing.assert_close(_shared_given(linear, messages, other).info, told.info)
        belief = above * told
        heard = reply.messages[f"views[{m}]"]
        for row in range(5):
            mean, covariance = linear.truth(m, belief.mean()[row], belief.covariance()[row])
            torch.testing.assert_close(heard.mean()[row], mean, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(heard.covariance()[row], covariance, rtol=1e-9, atol=1e-9)
    both = _shared_given(linear, messages, 0) * _shared_given(linear, messages, 1)
    torch.testing.assert_close(reply.messages["shared"].info, both.info)


def _shared_given(linear, messages, view):
    silent = Gaussian.vacuous((len(messages[0].info),), 2, dtype=torch.float64)
    alone = [message if m == view else silent for m, message in enumerate(messages)]
    return infer(linear.composer, inbox_of(alone)).messages["shared"]


def test_evidence_is_exact_where_the_encoders_are():
    """Importance samples from the true posterior all weigh the same."""
    linear, g = Linear(), generator(1)
    messages = linear.messages(0, 5)
    for above in (None, Gaussian(random(g, 5, 2), 0.5 + torch.rand(5, 2, generator=g, dtype=torch.float64))):
        inbox = inbox_of(messages, above=above)
        reply = infer(linear.composer, inbox)
        assert reply.bound == "lower"
        torch.testing.assert_close(reply.log_evidence, linear.evidence(messages, inbox["shared"]), rtol=0, atol=1e-6)
    # And a message that says nothing counts nothing, to the bit: what is left is what the other says.
    silent = messages[1].mask(torch.zeros(5, dtype=torch.bool))
    some = infer(linear.composer, inbox_of([messages[0], silent])).log_evidence
    torch.testing.assert_close(
        some, linear.evidence([messages[0], silent], inbox_of(messages)["shared"]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("objective", ["mvae", "dmvae"])
def test_evidence_is_a_lower_bound_elsewhere(objective):
    """With an encoder that errs, full messages, which it misreads, and private parts, which it ignores."""
    linear = Linear(objective)
    state = linear.composer.state()
    linear.composer.load({n: -v if n == "views[0].encoder.0.weight" else v for n, v in state.items()})
    messages = linear.messages(0, 300, full=True)
    inbox = inbox_of(messages)
    gap = linear.evidence(messages, inbox["shared"]) - infer(linear.composer, inbox).log_evidence
    error = float(gap.std()) / len(gap) ** 0.5
    assert float(gap.mean()) > 3 * error and float(gap.mean()) < 3


@pytest.mark.parametrize(
    "objective",
    [kind if kind in ("mvae", "mmjsd", "mmvae_plus") else pytest.param(kind, marks=pytest.mark.stat) for kind in KINDS],
)
def test_fit_finds_what_is_shared(objective):
    """Half of the rows lack a view at random; on new rows a view is predicted from the others nearly as well as can be."""
    g = generator(5)
    rows, sizes = 900, (3, 3, 3)
    messages = [Gaussian(m.info, m.precision) for m in world(3, rows, sizes)]
    gone = torch.where(torch.rand(rows, generator=g) < 0.5, torch.randint(3, (rows,), generator=g), 3)
    train = [message[:700].mask(gone[:700] != m) for m, message in enumerate(messages)]
    composer = build(
        sizes, objective=objective, hidden=[], **({"private": 1} if "plus" in objective or objective == "dmvae" else {})
    )
    fit(composer, train, epochs=30, batch=100, learning_rate=0.03, noise=0.0)
    test = [message[700:] for message in messages]
    z = [message.mean() for message in test]
    for m in range(3):
        others = [
            message if view != m else message.mask(torch.zeros(200, dtype=torch.bool))
            for view, message in enumerate(test)
        ]
        guess = infer(composer, inbox_of(others)).messages[f"views[{m}]"].mean()
        # The best linear guess from the other two views, with every row to learn from.
        seen = torch.cat([messages[v].mean() for v in range(3) if v != m] + [torch.ones(rows, 1).double()], 1)
        best = seen[700:] @ torch.linalg.lstsq(seen[:700], messages[m].mean()[:700]).solution
        left, least = (z[m] - guess).square().mean(), (z[m] - best).square().mean()
        assert float(left) < 1.35 * float(least), (m, float(left), float(least))


@pytest.mark.parametrize("objective", KINDS)
def test_every_objective_learns(objective):
    """The above in short: in few steps on few rows a view is predicted from the others better than by its mean."""
    messages = world(3, 300, (3, 3, 3), precision=20.0)
    private = {"private": 1} if objective in ("mmvae_plus", "dmvae") else {}
    composer = build((3, 3, 3), objective=objective, hidden=[], **private)
    fit(composer, [message[:240] for message in messages], epochs=25, batch=60, learning_rate=0.05, noise=0.0)
    test = [message[240:] for message in messages]
    guess = infer(composer, inbox_of([test[0].mask(torch.zeros(60, dtype=torch.bool)), *test[1:]])).messages["views[0]"]
    z = test[0].mean()
    left, least = (z - guess.mean()).square().mean(), (z - z.mean(0)).square().mean()
    assert float(left) < 0.9 * float(least)


def test_mopoe_of_many_views_is_refused():
    """It would take 2^M components a row."""
    build((1,) * 10, objective="mopoe")
    with pytest.raises(GraphError) as caught:
        build((1,) * 11, objective="mopoe")
    assert "at most 10 views" in str(caught.value) and "2047 subsets" in caught.value.found
    build((1,) * 11, objective="mvae")


def test_the_mixture_over_subsets_does_not_depend_on_blocks(monkeypatch):
    """All subsets of rows are summed at once, so many rows at a time as memory allows."""
    g = generator(4)
    info, precision = random(g, 5, 7, 3), 0.1 + torch.rand(5, 7, 3, generator=g, dtype=torch.float64)
    views = torch.rand(5, 7, generator=g) < 0.7
    found = []
    for entries in (2**22, 2 * 2**5 * 3):
        monkeypatch.setattr(experts_of_joint, "ENTRIES", entries)
        found.append(experts_of_joint.combined("mixture_of_products", Gaussian(info, precision), views))
    torch.testing.assert_close(found[0].info, found[1].info, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[0].precision, found[1].precision, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [1.5, 5.0])
def test_an_alpha_beyond_one_has_no_optimum_under_mvtcae(alpha):
    """(1 - alpha) KL(q || p) is then a reward, and grows for ever."""
    with pytest.raises(GraphError) as caught:
        build(objective="mvtcae", alpha=alpha)
    assert caught.value.where == "alpha" and "0 to 1" in caught.value.expected and caught.value.fix
    build(objective="mvtcae", alpha=1.0)
    build(objective="jmvae", alpha=alpha)


def test_a_view_alone_is_a_plain_vae():
    """One modality: every objective has an answer."""
    (message,) = world(0, 40, (3,))
    for objective in KINDS:
        composer = build((3,), objective=objective, hidden=[4])
        fit(composer, [message], epochs=2)
        reply = infer(composer, inbox_of([message]))
        assert bool(reply.log_evidence.isfinite().all()), objective
        assert bool(reply.messages["views[0]"].is_proper().all())
        first = reply.messages["views[0]"].info
        torch.testing.assert_close(first, first[:1].expand_as(first), rtol=1e-9, atol=1e-9)  # nothing else has spoken


@pytest.mark.parametrize("case", ["same", "single", "unequal", "constant", "silent"])
def test_odd_views_are_taken(case):
    a, b = world(0, 40, (3, 3))
    if case == "same":
        b = a
    if case == "single":
        b = b.mask(torch.arange(40) == 7)
    if case == "unequal":
        (b,) = world(1, 40, (1,))
    if case == "constant":
        b = Gaussian(3.0 * torch.ones(40, 3).double(), torch.ones(40, 3).double())
    if case == "silent":
        b = b.mask(torch.zeros(40, dtype=torch.bool))
    for objective in KINDS:
        composer = build((3, b.size), objective=objective, hidden=[4])
        if case == "silent" and objective in ("jmvae", "telbo"):
            with pytest.raises(DataError) as caught:
                fit(composer, [a, b], epochs=2)
            assert "no row has every view" in str(caught.value) and "mvae" in caught.value.fix
            continue
        fit(composer, [a, b], epochs=2)
        reply = infer(composer, inbox_of([a, b]))
        assert all(bool(v.isfinite().all()) for m in reply.messages.values() for v in m.tensors().values()), objective


def test_rows_that_see_nothing_are_refused():
    a, b = world(0, 5, (2, 2))
    with pytest.raises(DataError) as caught:
        fit(build(), [a.mask(torch.arange(5) == 0), b.mask(torch.arange(5) == 0)])
    assert "found: 1" in str(caught.value)


def test_negative_precision_is_refused():
    a, b = world(0, 5, (2, 2))
    composer = build(hidden=[])
    fit(composer, [a, b], epochs=1)
    with pytest.raises(MessageError) as caught:
        infer(composer, inbox_of([a, Gaussian(b.info, -b.precision)]))
    assert "views[1], rows 0, 1, 2" in str(caught.value)


@pytest.mark.parametrize("options, option, users", [({"objective": "mvae", "alpha": 0.5}, "alpha", "jmvae, mvtcae"),
                                                    ({"objective": "jmvae", "private": 2}, "private", "mmvae_plus, dmvae"),
                                                    ({"objective": "mopoe", "samples": 2}, "samples", "mmvae, mmvae_plus")])  # fmt: skip
def test_options_of_no_effect_are_refused(options, option, users):
    with pytest.raises(GraphError) as caught:
        build(**options)
    assert option in str(caught.value) and users in str(caught.value)


def graph(**composer):
    return {
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 2} for name in ("a", "b", "s")},
        "modules": {
            m: {"type": "vae", "data": m, "ports": {"latent": m}, "hidden": [4], "fit": {"epochs": 2}} for m in "ab"
        }
        | {},
        "composers": {"body": {"type": "joint", "ports": {"shared": "s", "views": ["a", "b"]}, **composer}},
    }


@pytest.mark.parametrize("composer, said", [({"objective": "jmvea"}, ["jmvae", "mmvae_plus"]),
                                            ({"betaa": 7}, ["betaa", "beta"]),
                                            ({"fit": {"epoch": 3}}, ["epoch", "epochs"]),
                                            ({"fit": {"schedule": "linear"}}, ["cosine", "constant"])])  # fmt: skip
def test_what_is_unknown_is_refused(composer, said):
    with pytest.raises(GraphError) as caught:
        load_graph(graph(**composer))
    assert all(word in str(caught.value) for word in said)


def test_whole_numbers_are_numbers():
    """Where a peer ignores a loss weight that is an integer."""
    states = []
    for one in (1, 1.0):
        modules = load_graph(graph(objective="mvtcae", alpha=one, beta=one, fit={"clip": one})).build()
        fit(modules["body"], world(0, 30, (2, 2)), epochs=2, clip=one)
        states.append(modules["body"].state())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def changes(composer, messages, **options):
    before = {name: value.clone() for name, value in composer.state().items()}
    fit(composer, messages, **options)
    return max(float((value - before[name]).abs().max()) for name, value in composer.state().items())


def test_clipping_and_schedule_have_an_effect():
    """Where a peer clips after the step."""
    messages = world(0, 60, (2, 2))
    composer = build(hidden=[4])
    fit(composer, messages, epochs=1)
    assert changes(composer, messages, epochs=1, clip=1e-12) < 1e-5 < changes(composer, messages, epochs=1)
    curves = [
        fit(build(hidden=[4]), messages, epochs=8, schedule=one).history["objective"] for one in ("cosine", "constant")
    ]
    assert curves[0] != curves[1]


def test_a_refit_goes_on_from_where_it_stood():
    messages = world(0, 200)
    composer = build((2, 2, 2), objective="mvae", hidden=[8])
    calm = {"batch": 50, "noise": 0.0}
    first = fit(composer, messages, epochs=40, learning_rate=0.01, **calm).history["objective"]
    again = fit(composer, messages, epochs=3, learning_rate=1e-4, **calm).history["objective"]
    assert first[-1] > first[0] + 1 and abs(again[0] - first[-1]) < 0.2 * (first[-1] - first[0])
    units = [value for name, value in composer.state().items() if name.endswith(("location", "scale"))]
    fit(composer, [Gaussian(3 * m.info, m.precision) for m in messages], epochs=1)
    assert all(torch.equal(a, b) for a, b in
               zip(units, [v for n, v in composer.state().items() if n.endswith(("location", "scale"))], strict=True))  # fmt: skip


def test_a_subset_is_inferred_as_its_objective_says():
    """Products of potentials, of posteriors, or mixtures by their moments: from what single views say."""
    messages = world(0, 6)
    for objective in KINDS:
        composer = build((2, 2, 2), objective=objective, hidden=[4])
        fit(composer, world(0, 100), epochs=5)
        composer.weights = {name: value for name, value in composer.weights.items()}

        def given(views, composer=composer):
            chosen = [m if v in views else m.mask(torch.zeros(6, dtype=torch.bool)) for v, m in enumerate(messages)]
            told = infer(composer, inbox_of(chosen)).messages["shared"]
            return told * composer.own_prior["shared"].expand(6)

        one, pair = [given([v]) for v in range(3)], given([0, 1])
        standard = Gaussian.standard((6,), 2, dtype=torch.float64)
        if objective in ("jmvae", "telbo", "mvae", "dmvae"):
            wanted = one[0] * one[1] / standard
        elif all(bool((q.precision > composer.own_prior["shared"].precision).all()) for q in one):  # none is wider
            product = one[0] * one[1]
            parts = [one[0], one[1]] + [product] * (objective == "mopoe")
            mean = sum(q.mean() for q in parts) / len(parts)
            variance = sum(q.variance() + (q.mean() - mean) ** 2 for q in parts) / len(parts)
            wanted = product if objective == "mvtcae" else Gaussian.from_moments(*_within(composer, mean, variance))
        else:
            continue
        torch.testing.assert_close(pair.mean(), wanted.mean(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(pair.variance(), wanted.variance(), rtol=1e-9, atol=1e-9)


def _within(composer, mean, variance):
    """Where no wider than the prior, else the prior."""
    prior = 1 / composer.own_prior["shared"].precision
    return torch.where(variance < prior, mean, 0.0), torch.minimum(variance, prior.expand_as(variance))


def test_subsets_of_a_full_set_differ_from_the_joint_encoder():
    """Of jmvae and telbo: all views ask the joint encoder, two of three the product."""
    messages = world(0, 100)
    composer = build((2, 2, 2), objective="jmvae", hidden=[4])
    fit(composer, messages, epochs=3)
    silent = Gaussian.vacuous((100,), 2, dtype=torch.float64)
    parts = [infer(composer, inbox_of([m if v == u else silent for v, m in enumerate(messages)])).messages["shared"]
             for u in range(3)]  # fmt: skip
    whole = infer(composer, inbox_of(messages)).messages["shared"]
    product = parts[0] * parts[1] * parts[2]
    assert float((whole.info - product.info).abs().max()) > 1e-3


def test_what_a_peer_reads_as_data_changes_nothing_here():
    """Rows of mixed patterns in one batch give the bits they give alone with their pattern."""
    messages = world(0, 8)
    for objective in KINDS:
        composer = build((2, 2, 2), objective=objective, hidden=[4])
        fit(composer, world(0, 60), epochs=2)
        patterns = list(itertools.product([True, False], repeat=3))
        mixed = [m.mask(torch.tensor([p[v] for p in patterns])) for v, m in enumerate(messages)]
        together = infer(composer, inbox_of(mixed)).messages["shared"]
        for row, pattern in enumerate(patterns):
            alone = [m.mask(torch.full((8,), pattern[v])) for v, m in enumerate(messages)]
            assert torch.equal(infer(composer, inbox_of(alone)).messages["shared"].info[row], together.info[row]), (
                objective
            )


@pytest.mark.parametrize("objective", KINDS)
def test_what_is_said_of_the_shared_latent_is_a_likelihood(objective):
    """No information without precision: a module that learns a population from it would find it without bound."""
    composer = build((2, 2, 2), objective=objective, hidden=[4])
    fit(composer, world(0, 60), epochs=3)
    told = infer(composer, inbox_of(world(1, 40))).messages["shared"]
    assert bool((told.info[told.precision == 0] == 0).all()) and bool((told.precision >= 0).all())
