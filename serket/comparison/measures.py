"""What a composed model is worth on test rows, and on the rows it is chosen by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from serket.comparison.scores import clustering, explained, imagined_scores, probe_scores, strict
from serket.data import Dataset
from serket.engine.run import pass_messages
from serket.errors import SerketError
from serket.evaluate import imaginable
from serket.inputs import dtype_of, gather, raw_keys
from serket.model import Model
from serket.protocol import couples_rows, extrinsic, traits
from serket.report.metrics import joined, probe, subsets
from serket.rows import chunks, seeded

__all__ = ["Readers", "by_labels", "criterion", "examples", "measured", "overall"]

Array: TypeAlias = NDArray[Any]
Readers: TypeAlias = Callable[[str], Any]
"""From a view to a probe taught real training rows of it."""
MOST_KEYS = 6
CHUNK = 4096


def measured(
    model: Model, shared: str, data: Dataset, keys: Sequence[str], readers: Readers, seed: int
) -> dict[str, Any]:
    """Measure a model on the test rows.

    With labels: ``subsets`` (accuracy of a probe on the shared latent), ``joint``, ``strict`` (mean of the strict
    subsets), ``calibration`` (mean over subsets), ``ari``, ``kmeans`` (another), ``coherence``; and per row ``right``,
    ``named``, ``coherent``, which say what a bootstrap over rows needs. The probe is taught every training row as far
    as it is seen. With or without: ``explained``, the share of a view's variance that each other one explains, their
    mean.
    """
    latent = _latents(model, shared, data)
    found: dict[str, Any] = {}
    if data.label is not None:
        truth = data.label[data.test]
        taught = latent(None, data.train)
        read = {joined(subset): latent(subset, data.test) for subset in subsets(keys, MOST_KEYS)}
        whole = joined(keys)
        scores = probe_scores(taught, data.label[data.train], read, truth)
        found["subsets"], found["right"] = scores["accuracy"], scores["right"]
        found["joint"], found["strict"] = scores["accuracy"][whole], strict(scores["accuracy"], whole)
        found["calibration"] = float(np.mean([*scores["calibration"].values()]))
        found |= clustering(taught, read[whole], truth, len(np.unique(data.label[data.train])), seed)
    pairs, coherence, coherent = {}, {}, {}
    for to in (key for key in imaginable(model) if key in keys):
        seen = data.present(to, data.test)
        real = data.evidence(to, data.test).values
        for given in (key for key in keys if key != to):
            guess = model.generate(to, data, observe=[given], rows=data.test).mean.double().numpy()
            name = f"{given}>{to}"
            if real is not None and seen.any():
                pairs[name] = explained(real.double().numpy()[seen], guess[seen])
            if data.label is not None:
                coherence[name], coherent[name] = imagined_scores(readers(to), guess, data.label[data.test])
    if pairs:
        found["explained"] = float(np.mean([*pairs.values()]))
    if coherence:
        found |= {"coherence": float(np.mean([*coherence.values()])), "pairs": coherence, "coherent": coherent}
    return found


def by_labels(model: Model, shared: str, data: Dataset, keys: Sequence[str], number: int, seed: int) -> dict[str, Any]:
    """Teach a probe so many labels a class, of rows seen by the first view alone, and read it from each view and all.

    A class with fewer rows gives what it has.
    """
    assert data.label is not None
    latent = _latents(model, shared, data)
    first = keys[0]
    rows = data.train[data.present(first, data.train)]
    rows = np.random.default_rng(seed).permutation(rows)
    labels = data.label[rows]
    few = np.concatenate([rows[labels == name][:number] for name in np.unique(labels)])
    read = {key: latent([key], data.test) for key in keys} | {joined(keys): latent(keys, data.test)}
    scores = probe_scores(latent([first], few), data.label[few], read, data.label[data.test])
    return {"accuracy": scores["accuracy"], "right": scores["right"]}


def criterion(model: Model, shared: str, data: Dataset, keys: Sequence[str], learn: Array, judge: Array) -> float:
    """Return what options of a composer fitted on rows ``learn`` are chosen by, on rows ``judge``; more is better.

    With labels: the probe taught rows ``learn``, read from every strict subset in the rows that have all of it, all
    answers counted alike. Without: the mean share of a view's variance that each other one explains.
    """
    observed = {key: data.present(key, judge) for key in keys}
    if data.label is not None:
        latent = _latents(model, shared, data)
        reader = probe(latent(None, learn), data.label[learn])
        right, asked = 0, 0
        for subset in subsets(keys, MOST_KEYS)[:-1]:
            rows = judge[np.stack([observed[key] for key in subset]).all(0)]
            if len(rows):
                right += int((reader.predict(latent(subset, rows)) == data.label[rows]).sum())
                asked += len(rows)
        return right / max(asked, 1)
    shares = []
    for to in (key for key in imaginable(model) if key in keys):
        for given in (key for key in keys if key != to):
            rows = judge[observed[to] & observed[given]]
            real = data.evidence(to, rows).values
            if len(rows) > 1 and real is not None:
                guess = model.generate(to, data, observe=[given], rows=rows).mean
                shares.append(explained(real.double().numpy(), guess.double().numpy()))
    return float(np.mean(shares)) if shares else float("nan")


def overall(found: Mapping[str, Any], keys: Sequence[str]) -> float:
    """Return what composers are chosen by where there are labels, of their measures on validation rows; more is better.

    The mean of joint, each view alone, strict, ARI, and coherence where anything is imagined: each counts alike.
    """
    each = [found["joint"], *(found["subsets"][key] for key in keys), found["strict"], found["ari"]]
    return float(np.mean([*each, *([found["coherence"]] if "coherence" in found else [])]))


def examples(model: Model, data: Dataset, keys: Sequence[str], to: str, rows: Array, draws: int) -> dict[str, Any]:
    """Return one view of some rows, and as imagined from the next: ``true``, ``mean`` and ``drawn``, nested lists."""
    given = next(key for key in keys if key != to)
    evidence = data.evidence(to, rows)
    imagined = model.generate(to, data, observe=[given], rows=rows)
    values = evidence.values
    if values is None or imagined.decoded is None:
        return {}
    drawn = imagined.decoded[:, :draws]
    parts = {"true": values, "mean": imagined.mean, "drawn": drawn}
    return {"to": to, "given": given, **{name: part.float().numpy().round(4).tolist() for name, part in parts.items()}}


def _latents(model: Model, shared: str, data: Dataset) -> Callable[[Sequence[str] | None, Array], Array]:
    """Return a function to the posterior mean of the shared latent, given a subset of the senses and some rows."""
    composer = next(n.name for n in model.graph.nodes.values() if n.bindings.get("shared") == shared)

    def latent(subset: Sequence[str] | None, rows: Array) -> Array:
        sequence = None if data.sequence is None else torch.from_numpy(data.sequence[rows])
        parts = [rows[part] for part in chunks(len(rows), CHUNK, sequence, couples_rows(model.modules))]
        mean = np.concatenate([_shared(model, composer, data, subset, part) for part in parts])
        if not np.isfinite(mean).all():
            raise SerketError("the shared latent is not finite", where="+".join(subset or ("all",)))
        return mean

    return latent


def _shared(model: Model, composer: str, data: Dataset, subset: Sequence[str] | None, rows: Array) -> Array:
    """Return the mean at the port ``shared``, and on a tree infer nothing else, which would take four times as long."""
    graph, variable = model.graph, model.graph.nodes[composer].bindings["shared"]
    if not graph.is_tree():
        return np.asarray(model.infer(data, observe=subset, rows=rows)[variable].mean().double())
    dtype = dtype_of(data, raw_keys(graph))
    evidence = gather(graph, model.modules, data, rows, dtype=dtype, observe=subset, warn=False)
    exchange = pass_messages(graph, model.modules, evidence, seed=model.seed, dtype=dtype, silent=composer).exchange
    inbox, module = exchange.inbox(composer), model.modules[composer]
    nothing, generator = next(iter(evidence.values())).silent(), seeded(model.seed, composer)
    reply = module.infer(inbox, nothing, generator=generator, ports=frozenset({"shared"}))
    exchange.put(composer, "shared", extrinsic(reply, inbox, traits(module).own_prior)["shared"], None, None)
    return np.asarray(exchange.belief(variable).mean().double())
