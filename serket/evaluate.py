"""What a model is worth on rows it was not fitted to, for every subset of its senses."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch

from serket.data import Dataset
from serket.engine import Result
from serket.errors import listed
from serket.graph import Node
from serket.messages import Categorical, Family, projected
from serket.model import Model
from serket.protocol import Generative, Trainable
from serket.report.metrics import concept_ari, joined, kappa, probe, probe_accuracy, subsets
from serket.report.reliability import reliability

__all__ = ["evaluate", "integrated"]

MOST_KEYS = 6


def evaluate(model: Model, dataset: Dataset, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Measure a model on the test rows; labels, if there are any, score and never teach.

    - ``probe_accuracy``: standardise + logistic regression (C = 1) on the posterior mean of the composer's shared
      latent, before any message from concepts, fitted on all training rows with all senses, applied to each subset's.
    - ``concept_ari``: adjusted Rand index of the concept belief's argmax.
    - ``coherence``: the same kind of classifier, fitted on real training rows of one view, on its decoded mean given
      one other view.
    - without labels: ``evidence`` (mean log evidence, nats), ``reconstruction`` (share of a view's variance that is
      explained from itself), ``prediction`` (from all the others), ``contribution`` (nats) and ``conflict``.
    - of a calibrated graph ``reliability`` (:func:`serket.report.reliability.reliability`).
    - ``agreement``: Cohen's kappa between the names that agents of a naming game have, each from its own senses.

    Subsets are of the data keys that some test row has; of more than 6, single ones, all but one, and all.

    Args:
        model: fitted.
        dataset: with training and test rows.
        progress: called with (steps done, steps in all, what is measured).

    Returns:
        ``subsets``, ``coherence``, ``unlabelled``, ``seconds``, ``rows``, ``seed``: the content of ``metrics.json``;
        ``rounds``, what was tried in rounds of mutual learning; and ``notes``: what is not measured, and why.
    """
    start = time.perf_counter()
    keys = [key for key in model.keys if key in dataset.arrays]
    told = [key for key in keys if dataset.masks[key][dataset.test].any()] or keys
    chosen = subsets(told, MOST_KEYS)
    notes: list[str] = []
    if len(chosen) < 2 ** len(told) - 1:
        notes.append(f"subsets: of {len(told)} data keys only single ones, all but one, and all are measured")
    if model.graph.rounds and not model.rounds:
        notes.append(
            "rounds: none was run, for no module that learns hears the others (feedback is off, or none learns)"
        )
    shared, concept, below = shared_variable(model), concept_variable(model), integrated(model)
    label = None if dataset.label is None else dataset.label[dataset.test]
    steps, done = len(chosen) + len(keys), 0

    def step(text: str) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps, text)

    reader = None
    if label is not None and shared is not None:
        taught = model.infer(dataset, rows=dataset.train, active=below)
        reader = _taught("probe_accuracy", taught[shared].mean().cpu(), cast(Any, dataset.label)[dataset.train], notes)
    table: dict[str, dict[str, float]] = {}
    unlabelled: dict[str, dict[str, float]] = {}
    for subset in chosen:
        row: dict[str, float] = {}
        if reader is not None and shared is not None and label is not None:
            seen = model.infer(dataset, observe=subset, rows=dataset.test, active=below)
            row["probe_accuracy"] = probe_accuracy(reader, seen[shared].mean().cpu(), label)
        result = model.infer(dataset, observe=subset, rows=dataset.test)
        if label is not None and concept is not None:
            belief = cast(Categorical, result[concept])
            row["concept_ari"] = concept_ari(label, belief.logits.argmax(-1).cpu())
        if result.log_evidence is not None:
            row["evidence"] = float(result.log_evidence.mean())
        table[joined(subset)] = row
        if len(subset) == len(told):
            unlabelled = _unlabelled(model, dataset, result)
        step(f"given {joined(subset)}")
    coherence: dict[str, float] = {}
    for to in keys:
        if to in imaginable(model):
            _imagine(model, dataset, to, keys, coherence, unlabelled, notes)
        step(f"imagining {to}")
    if keys and not imaginable(model):
        notes.append("nothing is imagined, for no module has a decoder; stored examples are found by serket retrieve")
    if agreement := agreements(model, dataset):
        unlabelled["agreement"] = agreement
    notes += unreadable(dataset)
    if coherence:
        coherence["mean"] = float(np.mean(list(coherence.values())))
    if any(node.calibration for node in model.graph.nodes.values()):
        measured = {"reliability": reliability(model, dataset)}
    else:
        measured = {}
    seconds = {**model.seconds, "evaluate": time.perf_counter() - start}
    return {
        "subsets": table,
        "coherence": coherence,
        "unlabelled": {measure: values for measure, values in unlabelled.items() if values},
        **measured,
        "seconds": seconds,
        "rows": {"train": len(dataset.train), "test": len(dataset.test)},
        "seed": model.seed,
        **({"rounds": [step.as_dict() for step in model.rounds]} if model.rounds else {}),
        **({"notes": notes} if notes else {}),
    }


def unreadable(dataset: Dataset) -> list[str]:
    """Return a note per module whose encoder could not read rows that it was given so far."""
    found = []
    for name, rows in dataset.unread.items():
        key, numbers = next(iter(rows.values()), ""), sorted(rows)
        if numbers:
            text = f"{name}: NaN or Inf from its encoder in {len(rows)} rows of {key} ({listed(numbers)}), so missing"
            found.append(text)
    return found


def concepts(model: Model, dataset: Dataset) -> dict[str, float]:
    """Return the ARI of the concept belief's argmax per subset of senses, on test rows; nothing without labels."""
    concept = concept_variable(model)
    if dataset.label is None or concept is None or not len(dataset.test):
        return {}
    found = {}
    for subset in subsets([key for key in model.keys if key in dataset.arrays], MOST_KEYS):
        belief = cast(Categorical, model.infer(dataset, observe=subset, rows=dataset.test)[concept])
        found[joined(subset)] = concept_ari(dataset.label[dataset.test], belief.logits.argmax(-1).cpu())
    return found


def integrated(model: Model) -> frozenset[str]:
    """Return the modules that read data and the composers, what stands before any concept speaks; else all.

    Where no latent is shared, concepts are all that connects the senses.
    """
    if shared_variable(model) is None:
        return frozenset(model.graph.nodes)
    return frozenset(n.name for n in model.graph.nodes.values() if n.data is not None or n.kind == "composer")


def shared_variable(model: Model) -> str | None:
    """Return the shared latent: what the last composer's ``shared`` port is bound to, or None."""
    found = [node.bindings["shared"] for node in model.graph.nodes.values() if "shared" in node.bindings]
    return found[-1] if found and model.graph.variables[found[-1]].family == Family.GAUSSIAN else None


def concept_variable(model: Model) -> str | None:
    """Return what a ``concept`` port is bound to, or the categorical variable that the last node without data is."""
    return model.graph.concept


def agreements(model: Model, dataset: Dataset) -> dict[str, float]:
    """Return Cohen's kappa between agents' names on the test rows, each from its own senses, no name being passed."""
    found: dict[str, float] = {}
    for game in (node for node in model.graph.nodes.values() if node.type == "naming_game"):
        apart = frozenset(model.graph.nodes) - {game.name}
        result = model.infer(dataset, rows=dataset.test, active=apart)
        names = {name: cast(Categorical, result[name]).logits.argmax(-1).cpu() for name in game.bindings.values()}
        for one, other in combinations(names, 2):
            found[f"{one}~{other}"] = kappa(names[one], names[other])
    return found


def imaginable(model: Model) -> list[str]:
    """Return the data keys some module can imagine."""
    nodes = model.graph.nodes.values()
    return [node.data for node in nodes if node.data and isinstance(model.modules[node.name], Generative)]


def _taught(measure: str, features: Any, labels: Any, notes: list[str]) -> Any:
    """Return a fitted probe, or None and a note where the labels leave nothing to tell apart."""
    classes = np.unique(labels)
    if len(classes) < 2:
        found = f"have one label only, {classes[0]}" if len(classes) else "are none"
        notes.append(f"{measure}: not measured, for the training rows it is learned from {found}")
        return None
    return probe(features, labels)


def _unlabelled(model: Model, dataset: Dataset, result: Result) -> dict[str, dict[str, float]]:
    """Return what the full set of senses says of itself: nats gained per sense, and the conflict over all."""
    names = {name: cast(str, model.graph.nodes[name].data) for name in result.modules}
    shares = result.contribution.sum(0) / result.present.sum(0).clamp_min(1)
    found: dict[str, dict[str, float]] = {
        "reconstruction": {},
        "prediction": {},
        "contribution": {names[name]: float(value) for name, value in zip(result.modules, shares, strict=True)},
        "conflict": {"all": float(result.conflict.mean())},
    }
    if result.log_evidence is not None:
        found["evidence"] = {"all": float(result.log_evidence.mean())}
    return found


def _imagine(
    model: Model,
    dataset: Dataset,
    to: str,
    keys: list[str],
    coherence: dict[str, float],
    unlabelled: dict[str, Any],
    notes: list[str],
) -> None:
    """Measure one view as imagined: from itself, from all others, and, with labels, from each other one."""
    test, below = dataset.test, integrated(model)
    here = dataset.evidence(to, test)
    if here.values is None or not bool(here.present.any()):
        notes.append(f"{to}: not measured as imagined, for no test row has it")
        return
    if model.graph.variables[next(iter(_node(model, to).bindings.values()))].family != Family.GAUSSIAN:
        return  # categories have no variance to explain
    seen = here.present.cpu().numpy()
    truth = here.values.double().cpu()[here.present.cpu()]
    others = [key for key in keys if key != to]
    alone = model.infer(dataset, observe=[to], rows=test, active=below)
    if bool((truth == truth[0]).all()):
        notes.append(f"{to}: not measured as imagined, for its test rows do not vary")
        return
    explained = unlabelled["reconstruction"][to] = _explained(truth, _decoded(model, to, alone)[seen])
    if explained < 0 and isinstance(model.modules[_node(model, to).name], Trainable):
        notes.append(f"{to}: reconstructed worse than by its mean ({explained:.2f}); fit its module for longer")
    if not others:
        return
    predicted = model.generate(to, dataset, observe=others, rows=test, active=below)
    unlabelled["prediction"][to] = _explained(truth, predicted.mean.double().cpu()[seen])
    if dataset.label is None:
        return
    taught = dataset.evidence(to, dataset.train)
    assert taught.values is not None
    kept = taught.present.cpu().numpy()
    measure = f"coherence of {to}"
    reader = _taught(measure, taught.values.cpu()[kept], dataset.label[dataset.train][kept], notes)
    for given in others if reader is not None else ():
        mean = model.generate(to, dataset, observe=[given], rows=test, active=below).mean
        coherence[f"{given}>{to}"] = probe_accuracy(reader, mean.cpu(), dataset.label[test])


def _decoded(model: Model, key: str, beliefs: Result) -> torch.Tensor:
    """Return the decoded mean of a view given beliefs that saw it."""
    node = _node(model, key)
    inbox = {port: projected(beliefs[variable]) for port, variable in node.bindings.items()}
    distribution = cast(Generative, model.modules[node.name]).predict(inbox, generator=torch.Generator())
    return distribution.mean.double().cpu()


def _node(model: Model, key: str) -> Node:
    return next(node for node in model.graph.nodes.values() if node.data == key)


def _explained(truth: torch.Tensor, guess: torch.Tensor) -> float:
    """Return 1 - sum of squared errors / sum of squares about the mean, over all dimensions together."""
    total = (truth - truth.mean(0)).square().sum()
    return float(1 - (truth - guess).square().sum() / total.clamp_min(torch.finfo(truth.dtype).tiny))
