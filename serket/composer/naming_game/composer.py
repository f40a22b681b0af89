"""The naming game: agents that agree on names while only symbols pass between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor

from serket.composer.naming_game.symbols import Agent, Games, play, unanimous, yes_to_all
from serket.errors import GraphError, ShapeError
from serket.messages import Categorical, Family, Message, leave_one_out
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register
from serket.rows import row_uniform, seeded

__all__ = ["NamingGame"]

Count = Annotated[int, Ge(1)]


@register("naming_game", kind="composer")
class NamingGame:
    """P(w_1 .. w_A) = P(w) [w_1 = ... = w_A = w]: one name for what A agents see, each with its own variable w_a.

    The inbox at ``agents[a]`` is that agent's likelihood P(z_a | w), so the target is P(w) prod_a P(z_a | w). How it is
    reached is the ``communication``:

    - ``metropolis_hastings``: the agents take turns to speak. The speaker proposes w* ~ P(w | z_speaker); every
      listener accepts with min(1, P(z_listener | w*) / P(z_listener | w)), and the name changes if all do. For two
      agents this is the game of Taniguchi et al. (2023); for more it keeps the same target, exactly (where the
      recursive game of Inukai et al. 2023 needs a game among all others for each proposal). The reply to an agent is
      how often each name was held, over its own likelihood: the belief at w_a is the chain's, and so the reply is
      tilted. A name counts as held for half a game at least, and one that an agent itself rules out is passed on as if
      it were the best of the others.
    - ``variational``: the other agents' likelihoods, multiplied: exact, but more than symbols pass.
    - ``accept_all``: every proposal is taken. A control: names are then a mixture of P(w | z_a).
    - ``none``: no game, w_a independent. A control.

    An agent to which all others are silent hears P(w).

    Args:
        ports: ``agents``, two or more children, categorical, all of one size.
        communication: see above.
        games: that count, per row and chain.
        burn_in: games before those.
        chains: conversations a row holds side by side; their names are pooled.
        prior: P(w).

    Raises:
        GraphError: fewer than two agents, or a prior that is no distribution.
        ShapeError: agents with different numbers of symbols, or a prior of another length.
    """

    ports: Mapping[str, Port] = {"agents": Port(Role.CHILD, Family.CATEGORICAL, many=True)}

    def __init__(
        self,
        ports: Mapping[str, Port],
        communication: Literal["metropolis_hastings", "variational", "accept_all", "none"] = "metropolis_hastings",
        games: Count = 200,
        burn_in: Annotated[int, Ge(0)] = 20,
        chains: Count = 1,
        prior: Literal["uniform"] | list[float] = "uniform",
    ) -> None:
        self.ports, self.communication = ports, communication
        self.games, self.burn_in, self.chains = games, burn_in, chains
        sizes = {name: port.size for name, port in ports.items()}
        if len(ports) < 2:
            raise GraphError("a naming game needs agents", expected="two or more under 'agents'", found=str(len(ports)))
        if len(set(sizes.values())) > 1:
            raise ShapeError(
                "agents name with different numbers of symbols",
                expected="one size",
                found=", ".join(f"{name} {size}" for name, size in sizes.items()),
                fix="give the agents' variables one size",
            )
        self.symbols = next(iter(sizes.values())) or 0
        self.prior = _prior(prior, self.symbols)
        self.sampled = communication in ("metropolis_hastings", "accept_all")
        self.exact = not self.sampled
        self.cost = f"linear, times {games + burn_in} games" if self.sampled else "linear"
        self.note = "names are agreed on by samples, so no log evidence is reported" if self.sampled else ""

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Play, or multiply; see the class. ``info["acceptance"]`` is the mean probability of acceptance, ``(rows,)``.

        Raises:
            MessageError: an agent excludes every symbol.
        """
        asked = [name for name in self.ports if ports is None or name in ports]
        given = {name: cast(Categorical, inbox[name]) for name in self.ports}
        like = next(iter(given.values()))
        prior = Categorical(self.prior.to(like.device, like.dtype)).expand(len(evidence))
        if self.communication == "none":
            alone = torch.stack([(prior * one).log_z() for one in given.values()]).sum(0)
            return Reply({name: prior for name in asked}, log_evidence=alone, bound="exact")
        others, belief = leave_one_out(prior, list(given.values()))
        if not self.sampled:
            messages = dict(zip(given, others, strict=True))
            return Reply({n: messages[n] for n in asked}, log_evidence=belief.log_z(), bound="exact")
        if not asked:
            return Reply({})
        played = self._play(given, evidence.row_id, generator)
        floor = 0.5 / (self.games * self.chains)
        said = {name: Categorical(_over(played.held, one.logits.double(), floor).to(like.dtype))
                for name, one in given.items() if name in asked}  # fmt: skip
        silent = torch.stack([one.is_vacuous() for one in given.values()])
        deaf = (silent.sum(0) - silent.long()) == len(given) - 1  # (agents, rows): all the others are silent
        messages = {name: prior.where(deaf[list(given).index(name)], one) for name, one in said.items()}
        return Reply(messages, tilted=frozenset(self.ports), info={"acceptance": played.acceptance.to(like.dtype)})

    def _play(self, given: Mapping[str, Categorical], row_id: Tensor, generator: torch.Generator) -> Games:
        seed, prior = generator.initial_seed(), self.prior.to(row_id.device)

        def draw(game: int) -> Tensor:
            stream = seeded(seed, "game", str(game), device=row_id.device)
            return row_uniform(stream, row_id, (self.chains, 2), dtype=torch.float64)

        agents = [Agent(one.logits.double(), prior) for one in given.values()]
        verdict = unanimous if self.communication == "metropolis_hastings" else yes_to_all
        return play(agents, self.symbols, verdict, draw, self.games, self.burn_in)


def _over(held: Tensor, own: Tensor, floor: float) -> Tensor:
    """Divide an agent's likelihood out of the chain's names: log max(held, floor) - own, as far as the names tell."""
    rest = held.clamp_min(floor).log() - own
    told = (held > floor) & own.isfinite()
    best = torch.where(told, rest, -math.inf).amax(-1, keepdim=True)
    return torch.minimum(rest, torch.where(best.isfinite(), best, 0.0))


def _prior(given: Literal["uniform"] | list[float], symbols: int) -> Tensor:
    if given == "uniform":
        return torch.zeros(symbols, dtype=torch.float64).log_softmax(-1)
    values = torch.tensor(given, dtype=torch.float64)
    if len(values) != symbols:
        raise ShapeError("the prior does not fit the symbols", expected=f"{symbols} numbers", found=str(len(values)))
    if not bool((values > 0).all()) or abs(float(values.sum()) - 1) > 1e-6:
        raise GraphError("the prior of the names is no distribution", expected="numbers above 0 that sum to 1",
                         found=str(given))  # fmt: skip
    return values.log()
