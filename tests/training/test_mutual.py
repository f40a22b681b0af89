"""Mutual learning: what is kept, what is taken back, what is never seen, and that it helps."""

import importlib
from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.metrics import adjusted_rand_score

import serket
from serket import store
from serket.errors import SerketError
from serket.messages import Categorical
from serket.protocol import Evidence
from serket.training.repartition import agreement, proposals, separation
from serket.training.validation import divide

room = importlib.import_module("serket.training.mutual")  # the room, not its function of the same name


def graph(rounds=1, explore=4, **shapes):
    fit = {"fit": {"sweeps": 30, "restarts": 3}, "refit": {"sweeps": 10}, "draws": 4}
    return {
        "serket": 1,
        "variables": {"concept": {"family": "categorical", "size": 4}},
        "modules": {
            "shapes": {"type": "gmm", "data": "x", "ports": {"component": "concept"}, **fit, **shapes},
            "words": {"type": "multinomial_mixture", "data": "c", "ports": {"category": "concept"}, **fit},
        },
        "run": {"rounds": rounds, "explore": explore},
    }


def senses(seed, rows=300):
    """Four concepts: by touch 0 and 1, and 2 and 3, overlap; by words 0 and 2, and 1 and 3."""
    g = np.random.default_rng(seed)
    concept = g.permutation(np.arange(rows) % 4)
    centre = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 6.0], [2.0, 6.0]])
    profile = np.full((4, 8), 0.5)
    for k in range(4):
        profile[k, 2 * (k % 2) : 2 * (k % 2) + 2] += 4
        profile[k, 4 + 2 * (k // 2) : 6 + 2 * (k // 2)] += 0.7
    profile /= profile.sum(1, keepdims=True)
    x = centre[concept] + g.normal(size=(rows, 2))
    counts = np.stack([g.multinomial(12, profile[k]) for k in concept])
    split = {"train": np.arange(rows * 2 // 3), "test": np.arange(rows * 2 // 3, rows)}
    return {"x": x, "c": counts.astype(float), "label": concept, **split}


def ari(model, data, keys):
    test = data["test"]
    found = model.infer({key: data[key][test] for key in keys})["concept"].logits.argmax(-1)
    return adjusted_rand_score(data["label"][test], found)


def states(model):
    return {f"{n}.{k}": v for n, m in model.modules.items() for k, v in m.state().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_evidence_never_falls_and_every_try_is_told():
    model = serket.fit(graph(rounds=2, explore=3), senses(0), workers=1)
    best = model.rounds[0].before
    for step in model.rounds:
        assert step.before == best and step.kept == (step.evidence >= step.before)
        best = max(best, step.evidence)
    assert {step.round for step in model.rounds} == {1, 2}
    assert [step.what for step in model.rounds[:3]] == ["shapes", "words", "concept"]
    assert len(model.rounds) == 2 * (2 + 3), "two modules and three divisions a round"
    assert any(step.kept for step in model.rounds)


def test_what_does_not_help_is_taken_back(monkeypatch):
    apart = serket.fit(graph(rounds=0), senses(1), workers=1)
    judged = iter(range(0, -100, -1))
    monkeypatch.setattr(room, "judged", lambda *a, **k: float(next(judged)))
    monkeypatch.setattr(
        "serket.training.validation.divide", lambda rows, share, seed, **_: (torch.arange(len(rows)), torch.arange(9))
    )
    model = serket.fit(graph(rounds=1), senses(1), workers=1)
    assert not any(step.kept for step in model.rounds) and len(model.rounds) == 6
    assert same(states(model), states(apart))


def test_validation_rows_are_never_learned_from(monkeypatch):
    learn, judge = torch.arange(170), torch.arange(170, 200)
    monkeypatch.setattr("serket.training.validation.divide", lambda rows, share, seed, **_: (learn, judge))
    monkeypatch.setattr(room, "judged", lambda *a, **k: 0.0)  # everything stays
    data = senses(2)
    spoilt = {**data, "x": data["x"].copy(), "c": data["c"].copy()}
    spoilt["x"][170:200] += 50
    spoilt["c"][170:200] = spoilt["c"][170:200, ::-1]
    one, other = (serket.fit(graph(rounds=1), each, workers=1) for each in (data, spoilt))
    assert same(states(one), states(other))
    data["x"][:9] += 50  # and others are
    assert not same(states(one), states(serket.fit(graph(rounds=1), data, workers=1)))


def test_a_sense_that_no_validation_row_holds_is_kept_as_it_was_and_told(monkeypatch):
    """The words of every validation row are missing: nothing judges them, so they are not refitted."""
    monkeypatch.setattr(
        "serket.training.validation.divide", lambda rows, share, seed, **_: (torch.arange(170), torch.arange(170, 200))
    )
    monkeypatch.setattr(room, "judged", lambda *a, **k: 0.0)  # everything that is tried stays
    data = senses(2)
    data["c_mask"] = ~np.isin(np.arange(len(data["x"])), np.arange(170, 200))
    before = {}
    model = serket.fit(
        graph(rounds=1, explore=2), data, workers=1, composed=lambda one: before.update(one.modules["words"].state())
    )
    words = next(step for step in model.rounds if step.what == "words")
    assert not words.kept and words.text == "not refitted: no validation row holds its data"
    assert next(step for step in model.rounds if step.what == "shapes").kept
    after = model.modules["words"].state()
    assert before and all(torch.equal(before[name], after[name]) for name in before)


def test_proposals_are_the_same_in_chunks(monkeypatch):
    model = serket.fit(graph(rounds=0), senses(3), workers=1)
    evidence = {
        name: Evidence.of(torch.from_numpy(senses(3)[key][:200]).float())
        for name, key in (("shapes", "x"), ("words", "c"))
    }
    found = []
    for size in (1000, 64):
        monkeypatch.setattr(room, "CHUNK", size)
        this = room._Round(
            model.graph, model.modules, evidence, evidence, ["shapes", "words"], 0, torch.float32, None, 1, 0.0
        )
        found.append([(one.text, one.labels) for one in this._proposals("concept", torch.Generator().manual_seed(0))])
    assert len(found[0]) > 3 and [text for text, _ in found[0]] == [text for text, _ in found[1]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*found, strict=True))


def test_without_feedback_nothing_comes_down():
    """Apart, under feedback off, modules are what they are without each other; only their names are aligned."""
    data = senses(3)
    model = serket.fit(graph(rounds=2, feedback=False), data, workers=1)
    assert {step.what for step in model.rounds} == {"words", "concept"}
    off = graph(rounds=2)
    off["run"]["feedback"] = False
    model = serket.fit(off, data, workers=1)
    assert model.rounds == []
    other = senses(3)
    other["c"] = np.random.default_rng(0).permutation(other["c"])
    means = [serket.fit(off, each, workers=1).modules["shapes"].state()["means"][0] for each in (data, other)]
    assert torch.equal(*(one[one[:, 0].argsort()] for one in means))


def test_a_module_above_a_latent_hears_nothing_from_above_without_feedback():
    """A mixture on a latent is fitted when it is composed: its component port must be deaf then, too."""
    described = graph(rounds=0)
    described["variables"]["z"] = {"family": "gaussian", "size": 2}
    described["modules"]["touch"] = {"type": "linear_gaussian", "data": "x", "ports": {"given": ["z"]},
                                     "matrix": [[1, 0], [0, 1]], "noise": [[0.01, 0], [0, 0.01]]}  # fmt: skip
    shapes = described["modules"]["shapes"]
    del shapes["data"]
    shapes["ports"]["observation"] = "z"
    data, other = senses(4), senses(4)
    other["c"] = np.random.default_rng(0).permutation(other["c"])
    for feedback, equal in ((False, True), (True, False)):
        shapes["feedback"] = feedback
        found = [serket.fit(described, each, workers=1).modules["shapes"].state()["means"][0] for each in (data, other)]
        assert torch.equal(*(one[one[:, 0].argsort()] for one in found)) == equal


def test_names_are_aligned():
    data = senses(5)
    model = serket.fit(graph(rounds=0), data, workers=1)
    assert ari(model, data, ("x", "c")) > 0.4
    order = torch.tensor([2, 0, 3, 1])
    model.modules["words"].relabel("category", order)
    broken = ari(model, data, ("x", "c"))
    evidence = {n: Evidence.of(torch.as_tensor(data[k][:200])) for n, k in (("shapes", "x"), ("words", "c"))}
    moved = serket.training.align(model.graph, model.modules, evidence, seed=0, dtype=torch.float64)
    assert moved["words.category"] == 4 and ari(model, data, ("x", "c")) > broken + 0.3
    again = serket.training.align(model.graph, model.modules, evidence, seed=0, dtype=torch.float64)
    assert again["words.category"] == 0


def test_an_interrupted_run_goes_on_from_its_last_whole_round(tmp_path):
    data, described = senses(6), graph(rounds=3, explore=2)
    whole = serket.fit(described, data, workers=1)

    def stop(name, done, steps, text):
        if name == "round 3":
            raise KeyboardInterrupt

    with store.Partial(tmp_path / "run") as kept, pytest.raises(KeyboardInterrupt):
        serket.fit(described, data, workers=1, kept=kept, report=stop)
    seen = []
    with store.Partial(tmp_path / "run") as kept:
        model = serket.fit(described, data, workers=1, kept=kept, report=lambda name, *_: seen.append(name))
    assert same(states(model), states(whole)) and "round 3" in seen and "round 2" not in seen
    assert [step.as_dict() for step in model.rounds] == [step.as_dict() for step in whole.rounds]


def test_a_proposal_is_taken_at_its_word():
    """Under a clamp a module's labels are those of the proposal, whatever its data say."""
    data = senses(7)
    model = serket.fit(graph(rounds=0), data, workers=1)
    evidence = {n: Evidence.of(torch.as_tensor(data[k][:200])) for n, k in (("shapes", "x"), ("words", "c"))}
    this = room._Round(
        model.graph, model.modules, evidence, evidence, ["shapes", "words"], 0, torch.float64, None, 1, 0.0
    )
    labels = torch.as_tensor(data["label"][:200])
    clamp = {"concept": Categorical(room._CLAMP * torch.nn.functional.one_hot(labels, 4).double())}
    for name in ("shapes", "words"):
        this.refit(name, clamp)
    means = model.modules["shapes"].state()
    centres = (means["location"] + means["scale"] * means["means"]).mean(0)
    truth = torch.stack([torch.as_tensor(data["x"][:200])[labels == k].mean(0) for k in range(4)])
    assert float((centres - truth).abs().max()) < 0.4
    assert ari(model, data, ("x", "c")) > 0.85


def test_separation_is_the_divergence_the_modules_see():
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(30, 3, generator=g, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(30) % 2  # nobody is in concept 2
    apart = separation([first, second], labels)
    total = first + second
    by_hand = (total[labels == 0, 0] - total[labels == 0, 1]).mean() + (
        total[labels == 1, 1] - total[labels == 1, 0]
    ).mean()
    torch.testing.assert_close(apart[0, 1], by_hand)
    assert torch.equal(apart, apart.mT) and bool(apart[2].isinf().all()) and bool(apart.diagonal().isinf().all())


def two_senses(seed, rows=200):
    """Profiles of two senses that share one direction, each with a stronger one of its own."""
    g = torch.Generator().manual_seed(seed)
    cause, *own = torch.randn(3, rows, 1, generator=g, dtype=torch.float64).unbind()
    ways = torch.randn(2, 2, 4, generator=g, dtype=torch.float64)
    noise = 0.1 * torch.randn(2, rows, 4, generator=g, dtype=torch.float64)
    return cause[:, 0], [cause * ways[m, 0] + 5 * own[m] * ways[m, 1] + noise[m] for m in range(2)]


def test_agreement_is_the_first_canonical_correlation(monkeypatch):
    cause, profiles = two_senses(0)
    assert 0.8 < float(agreement(profiles)[1]) < 1, "a ridge takes a little"
    monkeypatch.setattr("serket.training.repartition._RIDGE", 1e-12)
    for seed in range(3):
        cause, profiles = two_senses(seed)
        found, strength = agreement(profiles)
        assert abs(float(torch.corrcoef(torch.stack([cause, found]))[0, 1])) > 0.9, "not what is strong, what is shared"
        cca = CCA(1, max_iter=5000).fit(*(one.numpy() for one in profiles))
        a, b = cca.transform(*(one.numpy() for one in profiles))
        assert float(strength) == pytest.approx(np.corrcoef(a[:, 0], b[:, 0])[0, 1], abs=1e-3)
    alone, none = agreement(profiles[:1])
    assert float(none) == 0 and len(alone) == 200


def test_proposals_name_each_row_and_leave_others_alone():
    g = torch.Generator().manual_seed(1)
    messages = [torch.randn(60, 4, generator=g, dtype=torch.float64) for _ in range(2)]
    labels = torch.arange(60) % 4
    tried = list(proposals(messages, labels, torch.Generator().manual_seed(2)))
    assert len(tried) == 4 * (1 + 2) + 4
    nearest = set(divmod(int(separation(messages, labels).argmin()), 4))
    for one in tried:
        assert set(one.labels.tolist()) == {0, 1, 2, 3}, one.text
        touched = {int(word) for word in one.text.replace(",", "").split() if word.isdigit()}
        assert set(labels[one.labels != labels].tolist()) <= touched
    assert set(labels[tried[0].labels != labels].tolist()) <= nearest
    again = list(proposals(messages, labels, torch.Generator().manual_seed(2)))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(tried, again, strict=True))
    joined = next(one for one in tried if "joins" in one.text)
    j, i, k = (int(word) for word in joined.text.replace(",", "").split() if word.isdigit())
    assert bool((joined.labels[labels == j] == i).all()) and bool((joined.labels[labels == i] == i).all())
    assert set(joined.labels[labels == k].tolist()) == {k, j}


def test_the_first_proposal_divides_what_both_senses_tell_apart():
    """Concepts 0 and 1 hold half of two classes each; each sense alone varies more along something else."""
    g = torch.Generator().manual_seed(0)
    truth, labels = torch.arange(200) % 2, (torch.arange(200) // 2) % 2
    _, profiles = two_senses(0)
    way = torch.randn(2, 4, generator=g, dtype=torch.float64)
    profiles = [one + 2 * (truth - 0.5).unsqueeze(-1) * way[m] for m, one in enumerate(profiles)]
    messages = [torch.nn.functional.pad(one, (2, 0), value=20.0) for one in profiles]
    tried = proposals(messages, labels, torch.Generator().manual_seed(0))
    first = next(one for one in tried if "empty" not in one.text)
    assert first.text == "1 and 0 cut anew"
    assert adjusted_rand_score(labels, truth) < 0.01 and adjusted_rand_score(first.labels, truth) > 0.15


def test_rounds_need_rows_to_judge_by():
    data = {key: value[:1] for key, value in senses(0).items() if key in ("x", "c")}
    with pytest.raises(SerketError, match="judge"):
        serket.fit(graph(rounds=1), data, test_fraction=0.0)
    rows = Evidence(torch.arange(40), None, torch.zeros(40, dtype=torch.bool), torch.arange(40) // 4)
    learn, judge = divide(rows, 0.15, 0)
    assert set((learn // 4).tolist()).isdisjoint((judge // 4).tolist()), "whole sequences are held out"
    assert len(learn) + len(judge) == 40 and len(judge) == 8


def gains(seed):
    """ARI on held-out rows: before and after three rounds, per subset."""
    data = senses(seed, rows=600)
    off = graph(rounds=0)
    off["run"]["feedback"] = False
    models = (
        serket.fit(off, data, seed=seed, workers=1),
        serket.fit(graph(rounds=3, explore=8), data, seed=seed, workers=1),
    )
    return [[ari(model, data, keys) for keys in (("x", "c"), ("x",), ("c",))] for model in models]


def test_modules_teach_each_other():
    before, after = np.array([gains(seed) for seed in (0, 1)]).swapaxes(0, 1)
    assert (after[:, 0] >= before[:, 1:].max(1)).all(), "joint is no worse than the better single sense"
    assert (after.mean(0) > before.mean(0) - 0.02).all()


@pytest.mark.stat
def test_modules_teach_each_other_over_seeds():
    before, after = np.array([gains(seed) for seed in range(10)]).swapaxes(0, 1)
    assert (after[:, 0] >= before[:, 1:].max(1)).all(), "joint is no worse than the better single sense"
    assert np.median(after[:, 0]) > np.median(before[:, 0])
    assert (np.median(after, 0)[1:] > np.median(before, 0)[1:]).all(), "and each sense alone is better for it"


def test_labels_that_cannot_be_renamed_name_the_concepts_of_the_others():
    data = senses(0, rows=240)
    y = np.where(np.arange(240) % 2, data["label"], np.nan)[:, None]
    described = graph(rounds=0)
    values = (0.96 * np.eye(4) + 0.01).tolist()
    names = {"type": "table", "data": "y", "ports": {"given": "concept"}, "values": values}
    described["modules"] = {"words": described["modules"]["words"], "names": names}
    model = serket.fit(described, {**data, "y": y}, workers=1)
    test = data["test"]
    found = model.infer({"c": data["c"][test]})["concept"].logits.argmax(-1).numpy()
    shared = np.array([[((found == k) & (data["label"][test] == c)).sum() for c in range(4)] for k in range(4)])
    assert np.trace(shared) >= 0.9 * max(sum(shared[k, p[k]] for k in range(4)) for p in permutations(range(4)))


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_composed_above_two_senses_learns_no_mixture_of_names(seed):
    g = np.random.default_rng(0)
    state = np.arange(400) % 4
    corner = np.stack([state % 2, state // 2], 1)
    data = {"a": 5 * corner + g.normal(size=(400, 2)), "b": 5 * corner[:, ::-1] + g.normal(size=(400, 2)),
            "a_sequence": np.arange(400) // 20}  # fmt: skip
    described = graph(rounds=0)
    senses = {name: {"type": "gmm", "data": name, "ports": {"component": "concept"}} for name in "ab"}
    described["modules"] = {**senses, "chain": {"type": "markov", "ports": {"state": "concept"}}}
    chain = serket.fit(described, data, seed=seed, workers=1).modules["chain"].state()["log_transitions"].exp()
    assert float(chain.amax(-1).min()) > 0.9, "four states in a cycle"


class InPlace:
    """A module whose state is the tensor that its fit changes, as a torch.nn.Module's is."""

    def __init__(self):
        self.weights = torch.zeros(2)

    def state(self):
        return {"weights": self.weights}

    def load(self, state):
        self.weights.copy_(state["weights"])


def one_round(modules, **changed):
    options = {"graph": serket.load_graph(graph()), "modules": modules, "evidence": {}, "validation": {}, "report": None,
               "learners": list(modules), "seed": 0, "dtype": torch.float64, "number": 1, "best": 0.0}  # fmt: skip
    return room._Round(**{**options, **changed})


@pytest.mark.parametrize("found", [-1.0, -np.inf])
def test_a_state_changed_in_place_is_taken_back(monkeypatch, found):
    monkeypatch.setattr(room, "judged", lambda *a, **k: found)
    module = InPlace()
    assert not one_round({"it": module}).attempt("it", ["it"], lambda: module.weights.add_(1))
    assert torch.equal(module.weights, torch.zeros(2))


def test_what_the_graph_holds_impossible_is_no_crash():
    described = graph()
    described["modules"] = {"y": {"type": "table", "data": "y", "ports": {"given": "concept"},
                                  "values": [[1, 0]] * 4}}  # fmt: skip
    seen = serket.load_graph(described)
    evidence = {"y": Evidence.of(torch.tensor([[0.0], [1.0]], dtype=torch.float64))}
    assert room.judged(seen, seen.build(), evidence, seed=0, dtype=torch.float64) == -np.inf


def test_rows_without_sequences_are_judged_at_their_end_if_time_joins_them():
    rows = Evidence.none(40)
    learn, judge = divide(rows, 0.15, 0, together=True)
    assert learn.tolist() == list(range(34)) and judge.tolist() == list(range(34, 40))
    assert divide(rows, 0.15, 0)[1].tolist() != judge.tolist()


def test_an_empty_concept_takes_half_of_another():
    g = torch.Generator().manual_seed(3)
    messages = [torch.randn(60, 3, generator=g, dtype=torch.float64) for _ in range(2)]
    for labels in (torch.arange(60) % 2, torch.zeros(60, dtype=torch.int64)):
        tried = list(proposals(messages, labels, torch.Generator().manual_seed(2)))
        assert any(len(one.labels.unique()) == len(labels.unique()) + 1 for one in tried)


def test_a_division_that_changed_nothing_is_not_tried_for_ever(monkeypatch):
    """Everything is kept and nothing changes: the proposals start over, and so does the first one."""
    monkeypatch.setattr(room, "judged", lambda *a, **k: 0.0)
    monkeypatch.setattr(room._Round, "_divide", lambda *a: None)
    model = serket.fit(graph(rounds=0), senses(7), workers=1)
    evidence = {n: Evidence.of(torch.as_tensor(senses(7)[k])) for n, k in (("shapes", "x"), ("words", "c"))}
    this = one_round(model.modules, graph=model.graph, evidence=evidence)
    this.explore()
    assert len(this.steps) == 4 == len({step.text for step in this.steps})


def test_a_refit_takes_fewer_steps_unless_told(monkeypatch):
    described = graph(rounds=1, explore=0)
    shapes, words = described["modules"]["shapes"], described["modules"]["words"]
    shapes["fit"], words["fit"] = {"sweeps": 100, "restarts": 1}, {"sweeps": 12}
    del shapes["refit"], words["refit"]
    seen = {}
    for name, node in serket.load_graph(described).nodes.items():
        plain = node.cls.fit
        monkeypatch.setattr(
            node.cls,
            "fit",
            lambda *a, n=name, f=plain, **k: (seen.setdefault(n, []).append(k["sweeps"]), f(*a, **k))[1],
        )
    serket.fit(described, senses(0), workers=1)
    assert seen == {"shapes": [100, 20], "words": [12, 12]}
