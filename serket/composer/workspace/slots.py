"""A workspace of shared slots: views compete to write, and every view hears what is broadcast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from serket.composer.workspace.latent import layers, linear

__all__ = ["SlotSpace", "attention"]

Weights = Mapping[str, Tensor]


def attention(scores: Tensor, keep: Tensor, top: int) -> Tensor:
    """Return softmax over the views that win, ``(rows, N, M)``: at most ``top`` per slot, of those that are kept.

    Rows sum to 1; where no view is kept, to 0. Sums run over the views in order, so that a view that is not kept and
    one that does not exist give the same bits.

    Args:
        scores: ``(rows, N, M)``, of slots for views.
        keep: ``(rows, M)`` bool.
        top: winners per slot; M or more is the soft variant.
    """
    scores = torch.where(keep.unsqueeze(1), scores, -torch.inf)
    if top < scores.shape[-1]:
        winners = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(top, -1).indices, True)
        scores = torch.where(winners, scores, -torch.inf)
    highest = scores.detach().amax(-1, keepdim=True)
    mass = torch.where(scores > -torch.inf, (scores - torch.where(highest > -torch.inf, highest, 0.0)).exp(), 0.0)
    total = torch.zeros_like(highest)
    for view in mass.split(1, -1):
        total = total + view
    return mass / torch.where(total > 0, total, 1.0)


@dataclass(frozen=True, slots=True)
class SlotSpace:
    """N slots M of width d, written by the views h_m that win, read by all (Goyal et al. 2022, section 2.1).

    With R the encoded views, r their strengths:

    - write: A = softmax over the top k of (M Wq)(R We)' / sqrt(d) + log r;  U = A (R Wv)
    - gate: N = LN(M + U), N + MLP(N);  i, f = sigmoid(Gx mean relu R + Gm tanh M);  M' = i tanh(N) + f M
    - state: s = B M', of the size of ``shared``; what is broadcast is read back from it, M'' = C s
    - broadcast: h + softmax((h Bq)(M'' Bk)' / sqrt(d)) (M'' Bv), h the view's own query; then a decoder per view.

    Args:
        sizes: D of every view.
        shared: S.
        hidden: units of the hidden layer of each encoder and decoder.
        slots: N.
        top: k.
        width: d.
    """

    sizes: tuple[int, ...]
    shared: int
    hidden: int
    slots: int
    top: int
    width: int

    def initial(self, like: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw weights; decoders start at zero, the population's mean."""
        d, flat = self.width, self.slots * self.width

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=like.dtype, device=like.device)

        weights = {
            "rest": torch.zeros(self.shared).to(like),
            "slots": drawn(self.slots, d),
            "query": drawn(len(self.sizes), d),
        }
        for name in ("write.query", "write.key", "write.value", "gate.memory", "read.query", "read.key", "read.value"):
            weights[name] = drawn(d, 2 * d if name == "gate.memory" else d) / math.sqrt(d)
        weights |= {"gate.views": drawn(d, 2 * d) / math.sqrt(d), "gate.bias": torch.ones(2 * d).to(like)}
        weights |= linear("mix", (d, 2 * d, d), like, generator)
        weights |= linear("state", (flat, self.shared), like, generator)
        weights |= linear("broadcast", (self.shared, flat), like, generator)
        for view, size in enumerate(self.sizes):
            weights |= linear(f"encoder.{view}", (2 * size, self.hidden, d), like, generator)
            weights |= linear(f"decoder.{view}", (d, self.hidden, size), like, generator, silent=True)
        return weights

    def token(self, weights: Weights, view: int, inputs: Tensor) -> Tensor:
        """Return h_m, ``(rows, d)``."""
        return layers(weights, f"encoder.{view}", inputs)

    def blank(self, weights: Weights, rows: int) -> Tensor:
        """Return the slots before anything is written, ``(rows, N, d)``."""
        return weights["slots"].expand(rows, -1, -1)

    def shares(
        self, weights: Weights, tokens: Sequence[Tensor], strength: Tensor, keep: Tensor, memory: Tensor
    ) -> Tensor:
        """Return A, ``(rows, N, M)``."""
        query = memory @ weights["write.query"]
        scores = []
        for view, token in enumerate(tokens):
            key = torch.where(keep[:, view : view + 1], token, 0.0) @ weights["write.key"]
            scores.append((query * key.unsqueeze(1)).sum(-1) / math.sqrt(self.width))
        # A weaker message bids less: its score falls by -log r.
        bids = torch.stack(scores, -1) + strength.clamp_min(1e-6).log().unsqueeze(1)
        return attention(bids, keep, self.top)

    def write(
        self, weights: Weights, tokens: Sequence[Tensor], strength: Tensor, keep: Tensor, memory: Tensor
    ) -> Tensor:
        """Return the slots after the views that win have written, ``(rows, N, d)``."""
        shares = self.shares(weights, tokens, strength, keep, memory)
        update, loud, count = torch.zeros_like(memory), torch.zeros_like(memory[:, 0]), keep.sum(-1, keepdim=True)
        for view, token in enumerate(tokens):
            heard = torch.where(keep[:, view : view + 1], token, 0.0)
            update = update + shares[..., view : view + 1] * (heard @ weights["write.value"]).unsqueeze(1)
            loud = loud + heard.relu()
        new = F.layer_norm(memory + update, (self.width,))
        new = new + layers(weights, "mix", new)
        gates = (loud / count.clamp_min(1)) @ weights["gate.views"] + weights["gate.bias"]
        come, stay = (gates.unsqueeze(1) + memory.tanh() @ weights["gate.memory"]).sigmoid().chunk(2, -1)
        return come * new.tanh() + stay * memory

    def gather(
        self, weights: Weights, tokens: Sequence[Tensor], strength: Tensor, keep: Tensor, memory: Tensor | None = None
    ) -> Tensor:
        """Return s once the views that are kept have written into the memory, ``(rows, S)``."""
        memory = self.blank(weights, len(keep)) if memory is None else memory
        slots = self.write(weights, tokens, strength, keep, memory)
        return F.linear(slots.flatten(1), weights["state.0.weight"], weights["state.0.bias"])

    def scatter(self, weights: Weights, state: Tensor, view: int) -> Tensor:
        """Return what a view hears of the slots, decoded, ``(rows, D)``."""
        flat = F.linear(state, weights["broadcast.0.weight"], weights["broadcast.0.bias"])
        slots, own = flat.unflatten(-1, (self.slots, self.width)), weights["query"][view]
        scores = slots @ (weights["read.key"] @ (own @ weights["read.query"])) / math.sqrt(self.width)
        heard = (scores.softmax(-1).unsqueeze(-1) * slots).sum(-2) @ weights["read.value"]
        return layers(weights, f"decoder.{view}", own + heard)
