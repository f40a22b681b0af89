"""Thawed modules: some learn on with their composer, by gradients through the messages they send it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from serket.errors import DataError
from serket.graph.graph import Graph
from serket.messages import Message
from serket.protocol import Evidence, Module, Reader, Thawable, Thaws, extrinsic, traits, uninformed
from serket.rows import seeded
from serket.training.pretrain import Report

__all__ = ["thaw"]

EPOCHS = 15
BATCH = 256
LEARNING_RATE = 3e-4
HELD_OUT = 0.15
MOST_HELD_OUT = 2000

Leaves = Mapping[tuple[str, str], Tensor]


def thaw(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    name: str,
    inbox: Mapping[str, Message],
    report: Report | None = None,
    *,
    seed: int,
) -> Mapping[str, list[float]]:
    """Climb a fitted composer's objective together with the modules it thaws, and keep what is best on held-out rows.

    The composer reads a thawed module's messages, gradients and all. Where it would integrate its prediction p(z | s)
    times the message, it sends p(z | s) to the module as its inbox: ``log_evidence`` is then the module's own bound on
    log of the integral of p(z | s) p(x | z). So all climb one objective of the data, of the rows that a thawed module
    sees. Modules are asked by ``infer`` and told by ``load``: nothing else passes (law 14). The state in which training
    starts is the first candidate.

    Args:
        graph: who is bound to what.
        modules: fitted, by node name; changed in place.
        evidence: training rows, by node name.
        name: of the composer.
        inbox: of the composer, while those that it thaws are silent.
        report: called after every epoch.
        seed: of the order and every draw.

    Returns:
        The curve ``thawed``: the objective on held-out rows, nats a row, before, and after every epoch.

    Raises:
        DataError: fewer than two rows that a thawed module sees.
    """
    composer = modules[name]
    assert isinstance(composer, Thaws), "the graph was checked"
    learners = {one: cast(Thawable, modules[one]) for one in (name, *composer.thaw)}
    states = {one: dict(module.state()) for one, module in learners.items()}
    leaves = {
        (one, part): value.detach().clone().requires_grad_()
        for one, module in learners.items()
        for part, value in module.parameters().items()
    }
    sockets = {_port(graph, name, one): one for one in composer.thaw}

    def load(values: Leaves) -> None:
        for one, module in learners.items():
            module.load({**states[one], **{part: value for (node, part), value in values.items() if node == one}})

    def value(rows: Tensor, *draw: str) -> Tensor:
        heard = {port: message[rows] for port, message in inbox.items()}
        readers: dict[str, Reader] = {}
        for port, one in sockets.items():
            generator = seeded(seed, one, *draw, device=rows.device)
            message, readers[port] = _speak(modules[one], evidence[one][rows], heard[port], generator)
            heard[port] = heard[port] * message
        return composer.value(heard, readers, generator=seeded(seed, name, *draw, device=rows.device))

    def judged() -> float:
        with torch.no_grad():
            return float(value(held, "thaw", "judge").double().mean())

    generator = seeded(seed, name, "thaw", device=next(iter(evidence.values())).row_id.device)
    present = torch.stack([evidence[one].present for one in composer.thaw]).any(0)
    rows = present.nonzero().flatten()
    order = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
    held = order[: min(MOST_HELD_OUT, max(1, round(HELD_OUT * len(order))))]
    train = order[len(held) :]
    if not len(train):
        raise DataError(
            "there are too few rows to thaw on",
            where=f"{name}.thaw: {', '.join(composer.thaw)}",
            expected="two training rows or more that a thawed module sees: one to learn from, one to judge by",
            found=str(len(rows)),
            fix="remove thaw, or give it more rows",
        )
    load(leaves)
    descent = torch.optim.Adam(list(leaves.values()), lr=LEARNING_RATE, fused=True)
    kept, curve = _copied(leaves), [judged()]
    try:
        for epoch in range(EPOCHS):
            order = train[torch.randperm(len(train), generator=generator, device=rows.device)]
            for step, chosen in enumerate(order.tensor_split(-(-len(train) // BATCH))):
                descent.zero_grad(set_to_none=True)
                (-value(chosen, "thaw", f"{epoch}.{step}").mean()).backward()
                descent.step()
            curve.append(judged())
            if curve[-1] > max(curve[:-1]):
                kept = _copied(leaves)
            if report:
                report(name, epoch + 1, EPOCHS, f"with {', '.join(composer.thaw)}: held-out objective {max(curve):.5g}")
    finally:
        load(kept)
    return {"thawed": curve}


def _port(graph: Graph, composer: str, name: str) -> str:
    """Return the composer's port at a module's latent."""
    (variable,) = graph.nodes[name].bindings.values()
    return next(port for port, bound in graph.nodes[composer].bindings.items() if bound == variable)


def _speak(
    module: Module, evidence: Evidence, others: Message, generator: torch.Generator
) -> tuple[Message, Callable[[Message], Tensor]]:
    """Return a module's message, and what reads predictions of its latent; ``others`` speak of it, too."""
    ((own, socket),) = module.ports.items()
    silence = {own: uninformed(socket, len(evidence), dtype=others.dtype, device=others.device)}
    reply = module.infer(silence, evidence, generator=generator)

    def read(told: Message) -> Tensor:
        (wide,) = told.batch_shape
        again = torch.arange(len(evidence), device=told.device).repeat(wide // max(1, len(evidence)))
        reply = module.infer({own: told * others[again]}, evidence[again], generator=generator, ports=frozenset())
        return cast(Tensor, reply.log_evidence) - told.log_z()

    return extrinsic(reply, silence, traits(module).own_prior)[own], read


def _copied(leaves: Leaves) -> Leaves:
    return {key: leaf.detach().clone() for key, leaf in leaves.items()}
