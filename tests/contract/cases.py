"""One case or more per registered type: how to build it, what it sees, and what it is fitted on."""

from pathlib import Path

import torch
from sklearn.preprocessing import StandardScaler

from serket.messages import Family
from serket.registry import encoder, hypotheses, network
from serket.testing.case import Case, bags, child, clumps, normal, parent, whole


def _offers(values):
    """Four places a row on (-1, 1), and log-weights of which the last is empty."""
    places = torch.sin(values[:, :1] * torch.arange(1, 5, dtype=values.dtype, device=values.device) + values[:, 1:2])
    return places, torch.cos(3 * places + values[:, 1:2]).index_fill(
        1, torch.tensor([3], device=values.device), -torch.inf
    )


@hypotheses("case_categories")
def _categories(values, generator):
    places, weights = _offers(values)
    return ((places + 1) * 2).floor().clamp(0, 3), weights


@hypotheses("case_vectors")
def _vectors(values, generator):
    places, weights = _offers(values)
    return torch.stack([3 * places, places.square()], -1), weights


@hypotheses("case_bags")
def _bags(values, generator):
    places, weights = _offers(values)
    return torch.stack([2 * places.abs(), places + 1, 3 * places.square()], -1).round(), weights


@encoder("case_rows")
def _rows(values):
    return values.reshape(len(values), -1)


encoder("case_scaler")(StandardScaler().fit([[0.0, 1.0], [2.0, 3.0]]))
network("case_linear")(torch.nn.Linear)
FROZEN = Path(__file__).parents[1] / "frozen" / "files"


def box(function, **options):
    drawn = {"sir": {"survivors": 20}, "mh": {"survivors": 20, "steps": 8}}.get(options.get("method"), {})
    return {"function": f"case_{function}", **drawn, **options}


CATEGORY = Family.CATEGORICAL
TABLE = [[[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]], [[0.25, 0.25, 0.5], [0.6, 0.4, 0.0]]]
BODY = {"shared": parent(2), "views[0]": child(3), "views[1]": child(4)}
EQUAL = {"shared": parent(2), "views[0]": child(2), "views[1]": child(2)}
THREE = {**EQUAL, "views[2]": child(2)}
AGENTS = {f"agents[{a}]": child(3, CATEGORY) for a in range(3)}
CAUSES = {"given[0]": parent(2), "given[1]": parent(1)}
LINEAR = {"matrix": [[1.0, 0.5, -1.0], [0.3, -2.0, 0.7]], "noise": [[0.5, 0.2], [0.2, 0.4]], "offset": [1.0, -2.0]}
MIXTURE = {"options": {"draws": 4}, "fit_options": {"sweeps": 16, "restarts": 2}}
MIXED = {"concept": parent(3, CATEGORY), "views[0]": child(3), "views[1]": child(4, Family.DIRICHLET),
         "views[2]": child(2, CATEGORY)}  # fmt: skip
TOGETHER = {"fit_options": {"starts": 3, "iterations": 4}}
COARSE = {"draws": 4, "points": 128}
NETWORK = {"hidden": [8]}
BRIEF = {"epochs": 3, "batch": 16}
FEW = {"hidden": 6}
SLOTS = {"slots": 3, "width": 5, "top": 1}
ROUGH = {**BRIEF, "patience": 0}
TAUGHT = {"epochs": 5}

CASES = [
    Case("module", "black_box", "categories", {"hypothesis": parent(4, CATEGORY)}, box("categories"), normal(2)),
    Case("module", "black_box", "posteriors", {"hypothesis": parent(4, CATEGORY)},
         box("categories", includes_prior=True, prior=[0.4, 0.3, 0.2, 0.1]), normal(2)),
    Case("module", "black_box", "vectors", {"hypothesis": parent(2)}, box("vectors"), normal(2)),
    Case("module", "black_box", "vectors-posteriors", {"hypothesis": parent(2)}, box("vectors", includes_prior=True,
         prior={"mean": [0.5, 0.0], "covariance": [[4.0, 1.0], [1.0, 3.0]]}), normal(2), full=True),
    Case("module", "black_box", "vectors-sir", {"hypothesis": parent(2)}, box("vectors", method="sir"), normal(2)),
    Case("module", "black_box", "vectors-mh", {"hypothesis": parent(2)}, box("vectors", method="mh"), normal(2),
         full=True),
    Case("module", "black_box", "bags", {"hypothesis": parent(3, Family.DIRICHLET)}, box("bags", missing=0.1), normal(2)),
    Case("module", "black_box", "bags-mh", {"hypothesis": parent(3, Family.DIRICHLET)},
         box("bags", method="mh", includes_prior=True, prior=[2.0, 1.0, 0.5]), normal(2)),
    Case("module", "callable", "point", {"latent": parent(3)}, {"function": "case_rows"}, normal(5), deterministic=True),
    Case("module", "callable", "gate", {"latent": parent(2)}, {"function": "case_rows", "gate": 0.5, "scaling": "none"},
         normal(2), deterministic=True, full=True),
    Case("module", "callable", "gaussian", {"latent": parent(2)}, {"function": "case_rows", "reading": "gaussian",
         "form": "log_variance", "prior": {"mean": [0.5, 0.0], "covariance": [[40.0, 1.0], [1.0, 30.0]]}}, normal(4),
         full=True, deterministic=True),
    Case("module", "callable", "gaussian-gate", {"latent": parent(2)}, {"function": "case_rows", "reading": "gaussian",
         "form": "log_variance", "prior": "standard", "gate": 0.5}, normal(4), deterministic=True),
    Case("module", "callable", "categorical", {"latent": parent(3, CATEGORY)}, {"function": "case_rows",
         "prior": [0.5, 0.3, 0.2]}, normal(3), deterministic=True),
    Case("module", "onnx", "point", {"latent": parent(2)}, {"file": str(FROZEN / "linear.onnx"), "batch": 2},
         normal(5), deterministic=True),
    Case("module", "sklearn", "point", {"latent": parent(2)}, {"estimator": "case_scaler"}, normal(5),
         deterministic=True),
    Case("module", "torch", "point", {"latent": parent(2)}, {"network": "case_linear", "scaling": "whiten",
         "weights": str(FROZEN / "linear.safetensors"), "arguments": {"in_features": 3, "out_features": 5}}, normal(5),
         deterministic=True),
    *[Case("module", name, "point", {"latent": parent(2)}, {"folder": str(FROZEN / "folder")}, normal(5),
           deterministic=True) for name in ("transformers", "timm")],
    Case("module", "table", "child", {"given[0]": parent(2, CATEGORY), "given[1]": parent(2, CATEGORY),
         "child": child(3, CATEGORY)}, {"values": TABLE}),
    Case("module", "table", "data", {"given[0]": parent(2, CATEGORY), "given[1]": parent(2, CATEGORY)},
         {"values": TABLE}, whole(1, 3)),
    Case("module", "table", "alike", {"given[0]": parent(3, CATEGORY)}, {"values": 0.9}, whole(1, 3)),
    Case("module", "linear_gaussian", "child", {**CAUSES, "child": child(2)}, LINEAR, full=True),
    Case("module", "linear_gaussian", "data", CAUSES, LINEAR, normal(2)),
    Case("module", "vae", "gaussian", {"latent": parent(3)}, NETWORK, normal(5), BRIEF),
    Case("module", "vae", "full-inbox", {"latent": parent(3)}, NETWORK, normal(5), BRIEF, full=True),
    Case("module", "vae", "bernoulli", {"latent": parent(2)}, {**NETWORK, "likelihood": "bernoulli"}, whole(4, 2), BRIEF),
    Case("module", "vae", "categorical", {"latent": parent(2)}, {**NETWORK, "likelihood": "categorical"}, whole(2, 3),
         BRIEF),
    Case("module", "bag", "data", {"symbols": parent(4, Family.DIRICHLET)}, data=bags),
    Case("module", "classifier", "label", {"latent": parent(2), "label": child(3, CATEGORY)}, full=True,
         fit_options={"epochs": 5}),
    Case("module", "classifier", "hidden", {"latent": parent(3), "label": child(3, CATEGORY)}, {"hidden": [5]},
         fit_options={"epochs": 5}),
    Case("module", "classifier", "data", {"latent": parent(2)}, {"classes": 3}, whole(1, 3), {"epochs": 5}),
    Case("module", "classifier", "laplace", {"latent": parent(2)}, {"upward": "laplace", "classes": 3}, whole(1, 3),
         {"epochs": 5}),
    Case("module", "classifier", "gaussian", {"latent": parent(3)}, {"targets": "gaussian", "hidden": [4]}, normal(2),
         {"epochs": 5}, full=True),
    Case("module", "autoregressive", "bernoulli", {"given": parent(3, CATEGORY)}, NETWORK, whole(4, 2), ROUGH),
    Case("module", "autoregressive", "categorical", {"given": parent(2, CATEGORY)},
         {**NETWORK, "likelihood": "categorical"}, whole(2, 3), ROUGH),
    Case("module", "autoregressive", "gaussian", {"given": parent(3, CATEGORY)},
         {"hidden": [8, 8], "likelihood": "gaussian"}, clumps, ROUGH),
    Case("module", "recogniser", "data", {"given": parent(3, CATEGORY)}, {**NETWORK, "members": 2}, clumps, TAUGHT, taught=True),
    Case("module", "recogniser", "open", {"given": parent(2, CATEGORY)}, {"hidden": [], "gate": None}, normal(4), TAUGHT,
         taught=True),
    Case("module", "gan", "data", {"latent": parent(2)}, NETWORK, normal(5), BRIEF),
    Case("module", "gan", "full-inbox", {"latent": parent(3)}, {"hidden": [8, 8]}, normal(4), BRIEF, full=True),
    Case("module", "flow", "data", {"given": parent(3, CATEGORY)}, {**NETWORK, "bins": 4}, clumps, ROUGH),
    Case("module", "flow", "one-column", {"given": parent(2, CATEGORY)}, {**NETWORK, "bins": 4}, normal(1), ROUGH),
    Case("module", "flow_vae", "data", {"latent": parent(2)}, NETWORK, normal(5), BRIEF),
    Case("module", "flow_vae", "full-inbox", {"latent": parent(3)}, {**NETWORK, "likelihood": "bernoulli"}, whole(4, 2), BRIEF,
         full=True),
    Case("module", "flow_vae", "one-dimension", {"latent": parent(1)}, NETWORK, normal(3), BRIEF),
    Case("module", "count_vae", "gaussian", {"words": parent(3, Family.DIRICHLET)}, NETWORK, normal(5), BRIEF),
    Case("module", "count_vae", "bernoulli", {"words": parent(4, Family.DIRICHLET)},
         {**NETWORK, "likelihood": "bernoulli", "tokens": 3.0}, whole(4, 2), BRIEF),
    Case("module", "dynamics", "turn", {"state": child(2)}, {"noise": 0.3, "matrix": [[0.8, 0.5], [-0.5, 0.8]]}, full=True),
    Case("module", "dynamics", "walk", {"state": child(3)}, {"noise": 0.3, "covariance": 4.0}),
    Case("module", "gmm", "observation", {"component": parent(3, CATEGORY), "observation": child(2)}, **MIXTURE),
    Case("module", "gmm", "full-observation", {"component": parent(3, CATEGORY), "observation": child(2)}, full=True,
         **MIXTURE),
    Case("module", "gmm", "data", {"component": parent(3, CATEGORY)}, data=clumps, **MIXTURE),
    Case("module", "gmm", "collapsed", {"component": parent(3, CATEGORY)}, {"draws": 4, "weights": "stick_breaking"},
         clumps, {**MIXTURE["fit_options"], "method": "collapsed"}),
    Case("module", "gmm", "collapsed-observation", {"component": parent(3, CATEGORY), "observation": child(2)},
         {"draws": 4}, fit_options={**MIXTURE["fit_options"], "method": "collapsed"}),
    Case("module", "gmm", "tilted", {"component": parent(3, CATEGORY), "observation": child(2)},
         {"draws": 4, "downward": "tilted"}, fit_options=MIXTURE["fit_options"]),
    Case("module", "gmm", "particles", {"component": parent(3, CATEGORY), "observation": child(2)},
         {"draws": 4, "downward": "particles", "particles": 8}, fit_options=MIXTURE["fit_options"]),
    Case("module", "mlda", "data", {"category": parent(2, CATEGORY)}, COARSE, bags, MIXTURE["fit_options"]),
    Case("module", "mlda", "splits", {"category": parent(2, CATEGORY), "words[0]": child(3, Family.DIRICHLET)},
         {**COARSE, "splits": [2, 2], "topics": 3}, bags, MIXTURE["fit_options"]),
    Case("module", "mlda", "words", {"category": parent(2, CATEGORY), "words[0]": child(3, Family.DIRICHLET),
         "words[1]": child(4, Family.DIRICHLET), "categories[0]": child(3, CATEGORY)}, COARSE, None,
         MIXTURE["fit_options"]),
    Case("module", "mlda", "views", {"category": parent(3, CATEGORY),
         "categories[0]": child(2, CATEGORY), "categories[1]": child(3, CATEGORY)}, **MIXTURE),
    Case("module", "multinomial_mixture", "data", {"category": parent(3, CATEGORY)}, data=bags, **MIXTURE),
    Case("module", "multinomial_mixture", "bursts", {"category": parent(3, CATEGORY)},
         {"draws": 4, "overdispersed": True}, bags, MIXTURE["fit_options"]),
    Case("module", "multinomial_mixture", "bursts-words", {"category": parent(3, CATEGORY),
         "words": child(4, Family.DIRICHLET)}, {"draws": 4, "overdispersed": True}, fit_options=MIXTURE["fit_options"]),
    Case("module", "multinomial_mixture", "words", {"category": parent(3, CATEGORY), "words": child(4, Family.DIRICHLET)},
         **MIXTURE),
    Case("module", "multinomial_mixture", "views", {"category": parent(3, CATEGORY), "words": child(4, Family.DIRICHLET),
         "categories[0]": child(2, CATEGORY), "categories[1]": child(3, CATEGORY)}, **MIXTURE),
    Case("module", "multinomial_mixture", "views-only", {"category": parent(3, CATEGORY),
         "categories[0]": child(2, CATEGORY), "categories[1]": child(3, CATEGORY)}, **MIXTURE),
    Case("module", "hmm", "data", {"state": child(3, CATEGORY)}, data=clumps, fit_options={"restarts": 2, "sweeps": 20},
         deterministic=True),
    Case("module", "markov", "baum-welch", {"state": child(3, CATEGORY)}, deterministic=True),
    Case("module", "markov", "gibbs", {"state": child(3, CATEGORY)}, {"draws": 4},
         fit_options={"method": "gibbs", "sweeps": 16}),
    Case("module", "pool", "categorical", {"episode": parent(3, CATEGORY), "frames": child(3, CATEGORY)}),
    Case("module", "pool", "gaussian", {"episode": parent(2), "frames": child(2)}, full=True),
    Case("module", "broadcast", "categorical", {"episode": child(3, CATEGORY), "frames": parent(3, CATEGORY)}),
    Case("module", "broadcast", "gaussian", {"episode": child(2), "frames": parent(2)}),
    Case("composer", "product", "plain", EQUAL),
    Case("composer", "product", "trust", EQUAL, {"trust": [0.5, 1.0]}, full=True),
    Case("composer", "product", "robust", EQUAL, {"robust": [0.2, 0.0], "trust": 0.8}),
    Case("composer", "product", "intersection", EQUAL, {"rule": "covariance_intersection"}),
    Case("composer", "product", "intersection-trust", THREE, {"rule": "covariance_intersection", "trust": 0.5}, full=True),
    Case("composer", "mixture_of_experts", "diagonal", EQUAL),
    Case("composer", "mixture_of_experts", "full", THREE, full=True),
    Case("composer", "mixture_of_products", "diagonal", EQUAL),
    Case("composer", "mixture_of_products", "full", THREE, full=True),
    Case("composer", "relative", "all", BODY, {"keep": 5}, deterministic=True),
    Case("composer", "relative", "drawn", {**BODY, "views[2]": child(2)}, {"keep": 5, "anchors": 20}, full=True),
    Case("composer", "linear_gaussian", "diagonal", BODY, {"private": 1}, deterministic=True),
    Case("composer", "linear_gaussian", "full", BODY, {"private": 0}, full=True, deterministic=True),
    *[Case("composer", "joint", objective, {**BODY, "views[2]": child(2)}, {"objective": objective, **NETWORK},
           fit_options=BRIEF)
      for objective in ("jmvae", "telbo", "mvae", "mmvae", "mopoe", "mvtcae", "mmjsd", "mmvae_plus", "dmvae")],
    Case("composer", "joint", "full", BODY, {**NETWORK, "objective": "mmvae_plus", "private": 2}, fit_options=BRIEF,
         full=True),
    *[Case("composer", "coordinated", distance, BODY, {"distance": distance, "hidden": 4}, fit_options={"epochs": 4, "batch": 16})
      for distance in ("kl", "wasserstein", "contrastive")],
    Case("composer", "coordinated", "cca", BODY, {"distance": "cca"}, full=True),
    Case("composer", "coordinated", "cross-generation", BODY | {"views[2]": child(2)},
         {"criterion": "cross_generation", "hidden": 0}, fit_options={"epochs": 4, "batch": 16}),
    Case("composer", "kernel", "diagonal", BODY, deterministic=True),
    Case("composer", "kernel", "full", BODY, full=True, deterministic=True),
    Case("composer", "clusters", "mixed", MIXED, **TOGETHER),
    Case("composer", "clusters", "full", {"concept": parent(3, CATEGORY), "views[0]": child(3), "views[1]": child(2)},
         full=True, **TOGETHER),
    Case("composer", "clusters", "diagonal", MIXED, {"covariance": "diagonal", "counts": "multinomial"},
         fit_options=TOGETHER["fit_options"]),
    Case("composer", "clusters", "tied-tempered", MIXED, {"covariance": "tied", "weights": [1.0, 0.5, 0.25]},
         fit_options=TOGETHER["fit_options"]),
    Case("composer", "clusters", "categories", {"concept": parent(3, CATEGORY), "views[0]": child(2, CATEGORY),
         "views[1]": child(4, CATEGORY)}, **TOGETHER),
    Case("composer", "workspace", "latent", BODY, FEW, fit_options=BRIEF),
    Case("composer", "workspace", "latent-full", BODY, {**FEW, "losses": {"fused": 1}}, fit_options=BRIEF, full=True),
    Case("composer", "workspace", "slots", BODY, {**FEW, **SLOTS}, fit_options=BRIEF),
    Case("composer", "workspace", "memory", BODY, {**FEW, **SLOTS, "memory": True}, fit_options=BRIEF, causal=True),
    *[Case("composer", "naming_game", mode, AGENTS, {"communication": mode, "games": 30, "prior": [0.5, 0.3, 0.2]})
      for mode in ("metropolis_hastings", "variational", "accept_all", "none")],
]  # fmt: skip
TRAINABLE = [
    case
    for case in CASES
    if case.type in ("classifier", "count_vae", "vae", "gmm", "hmm", "markov", "mlda", "multinomial_mixture")
    or (
        case.kind == "composer"
        and case.type in ("clusters", "coordinated", "joint", "kernel", "linear_gaussian", "relative", "workspace")
    )
    or case.type in ("callable", "onnx", "sklearn", "timm", "torch", "transformers")
    or case.type in ("autoregressive", "flow", "flow_vae", "gan", "recogniser")
    or (case.kind, case.type) in (("composer", "clusters"), ("composer", "joint"), ("composer", "linear_gaussian"))
    or (case.kind, case.type) == ("composer", "workspace")
]
