"""The naming game: its names are the posterior's, its controls' are not, and only symbols pass."""

import pytest
import torch

from serket.composer import NamingGame
from serket.composer.naming_game import composer as naming_game
from serket.composer.naming_game import symbols
from serket.composer.naming_game.symbols import Agent, play, unanimous
from serket.engine import run
from serket.errors import GraphError, MessageError, ShapeError
from serket.graph import load_graph
from serket.messages import Categorical, Family
from serket.protocol import Evidence, Port, Role
from serket.rows import row_uniform, seeded
from tests.reference import enumerate_tables
from tests.statistical.checks import largest_z

PRIOR = [0.3, 0.25, 0.2, 0.15, 0.1]
MODES = ("metropolis_hastings", "variational", "accept_all", "none")


def generator(seed):
    return torch.Generator().manual_seed(seed)


def build(agents, communication="metropolis_hastings", size=5, **options):
    ports = {f"agents[{a}]": Port(Role.CHILD, Family.CATEGORICAL, size) for a in range(agents)}
    return NamingGame(ports, communication, **{"prior": PRIOR, **options} if size == 5 else options)


def likelihoods(agents, rows=20, seed=1):
    g = generator(seed)
    return [1.5 * torch.randn(rows, 5, generator=g, dtype=torch.float64) for _ in range(agents)]


def infer(composer, logits, seed=3):
    inbox = {name: Categorical(one) for name, one in zip(composer.ports, logits, strict=True)}
    return composer.infer(inbox, Evidence.none(len(logits[0])), generator=generator(seed)), inbox


def distance(agents, communication="metropolis_hastings", **options):
    """Total variation of the belief at every agent to the enumerated posterior: ``(rows,)``, the worst agent's."""
    logits = likelihoods(agents)
    options = {"games": 1000, "burn_in": 200, "chains": 200, **options}
    reply, inbox = infer(build(agents, communication, **options), logits)
    truth = torch.stack([
        torch.tensor([p * float(torch.stack([one[row, k] for one in logits]).sum().exp()) for k, p in enumerate(PRIOR)])
        for row in range(len(logits[0]))
    ]).double()  # fmt: skip
    truth = truth / truth.sum(1, keepdim=True)
    beliefs = [(reply.messages[name] * inbox[name]).probs for name in inbox]
    return torch.stack([(belief - truth).abs().sum(1) / 2 for belief in beliefs]).amax(0)


@pytest.mark.parametrize("agents", [2, 3])
def test_names_are_those_of_the_enumerated_posterior(agents):
    """Five symbols, 20 rows: below 0.01 in every row; both controls fail that in every row but a few."""
    assert float(distance(agents).max()) < 0.01
    assert float(distance(agents, "variational").max()) < 1e-7
    for control in ("accept_all", "none"):
        found = distance(agents, control)
        assert float(found.median()) > 0.1 and float((found > 0.01).double().mean()) > 0.9, (control, found)


class Inverted(Agent):
    def accept(self, proposed, present):
        return super().accept(present, proposed)


class PriorTwice(Agent):
    """Compares posteriors: the prior is in the proposal already."""

    def accept(self, proposed, present):
        prior = torch.tensor(PRIOR).double().log()
        likelihood = self._likelihood + prior
        return (likelihood.gather(-1, proposed) - likelihood.gather(-1, present)).clamp_max(0).exp()


def with_speakers_term(agents, count, verdict, draw, games, burn_in=0, names=None):
    """P(z_speaker | w*) / P(z_speaker | w) stays in the ratio, though the proposal has it."""
    return play(agents, count, lambda listeners, new, old: unanimous(agents, new, old), draw, games, burn_in, names)


def own_way(agents, count, verdict, draw, games, burn_in=0, names=None):
    """Whoever speaks has its way."""
    return play(agents, count, symbols.yes_to_all, draw, games, burn_in, names)


def no_turns(agents, count, verdict, draw, games, burn_in=0, names=None):
    """Only one listener is asked."""
    return play(agents, count, lambda some, new, old: unanimous(some[:1], new, old), draw, games, burn_in, names)


@pytest.mark.parametrize("name, bug, agents", [
    ("Agent", Inverted, 2), ("Agent", PriorTwice, 2), ("play", with_speakers_term, 2), ("play", own_way, 2),
    ("play", no_turns, 3)])  # fmt: skip
def test_planted_bugs_are_caught(monkeypatch, name, bug, agents):
    monkeypatch.setattr(naming_game, name, bug)
    assert float(distance(agents).median()) > 0.01


def geweke(seed, kernel=play, sweeps=30, chains=1000):
    """Chains from the prior, alternating {z_a given the name; six games}, against fresh draws of (name, z)."""
    g = generator(seed)
    prior = torch.tensor(PRIOR).double()
    tables = [(2 * torch.randn(5, 4, generator=g, dtype=torch.float64)).softmax(1) for _ in range(3)]

    def see(names):
        return [one[names].multinomial(1, generator=g).squeeze(1) for one in tables]

    def functions(names, seen):
        found = {f"name {k}": (names == k).double() for k in range(4)}
        found |= {f"z{a}": one.double() for a, one in enumerate(seen)}
        return found | {f"log p(z{a} | name)": table[names, seen[a]].log() for a, table in enumerate(tables)}

    names = prior.multinomial(chains, replacement=True, generator=g)
    for _ in range(sweeps):
        seen = see(names)
        agents = [Agent(one.log().T[z], prior.log()) for one, z in zip(tables, seen, strict=True)]
        uniforms = torch.rand(7, chains, 1, 2, generator=g, dtype=torch.float64)
        names = kernel(agents, 5, unanimous, uniforms.__getitem__, 6, names=names.unsqueeze(1)).names.squeeze(1)
    fresh = prior.multinomial(chains, replacement=True, generator=g)
    return largest_z(functions(names, seen), functions(fresh, see(fresh)))  # z as the last games saw it


@pytest.mark.parametrize("seed", range(3))
def test_games_leave_the_joint_distribution_as_it_is(seed):
    assert geweke(seed) <= 4


@pytest.mark.parametrize("bug", [own_way, with_speakers_term, no_turns])
def test_geweke_catches(bug):
    assert max(geweke(seed, bug) for seed in range(3)) > 4


class Sealed:
    """An agent behind a door: symbols and probabilities of acceptance pass, nothing else does."""

    def __init__(self, agent):
        self.propose, self.accept = self._hear(agent.propose), self._hear(agent.accept)

    def _hear(self, method):
        def call(*told):
            answer = method(*told)
            assert {one.shape for one in told} == {answer.shape} and answer.shape == (8, 4)  # no (rows, K)
            return answer

        return call


def test_only_symbols_pass():
    agents = [Agent(one, torch.tensor(PRIOR).double().log()) for one in likelihoods(3, rows=8)]
    rows = torch.arange(8)
    draws = [row_uniform(seeded(0, str(game)), rows, (4, 2), dtype=torch.float64) for game in range(40)]
    plain, sealed = (play(some, 5, unanimous, draws.__getitem__, 39) for some in (agents, [*map(Sealed, agents)]))
    assert all(torch.equal(a, b) for a, b in zip(plain, sealed, strict=True))


def test_in_a_graph_beliefs_equal_enumeration():
    """Two robots, each with its own table of what a name looks like; one of them sees nothing in some rows."""
    g = generator(5)
    tables = [(1.5 * torch.randn(3, 4, generator=g, dtype=torch.float64)).softmax(1) for _ in range(2)]
    spec = {
        "serket": 1,
        "variables": {f"w{a}": {"family": "categorical", "size": 3} for a in range(2)},
        "modules": {f"robot{a}": {"type": "table", "ports": {"given": f"w{a}"}, "data": f"x{a}",
                                  "values": tables[a].tolist()} for a in range(2)},
        "composers": {"talk": {"type": "naming_game", "ports": {"agents": ["w0", "w1"]}, "prior": [0.5, 0.3, 0.2]}},
    }  # fmt: skip
    seen = torch.tensor([[0, 3], [1, 2], [-1, 1], [2, -1], [-1, -1]])
    evidence = {f"robot{a}": Evidence.of(torch.where(seen[:, a : a + 1] < 0, torch.nan, seen[:, a : a + 1].double()))
                for a in range(2)}  # fmt: skip
    results = {}
    for mode in ("variational", "metropolis_hastings"):
        spec["composers"]["talk"] |= {"communication": mode, "games": 2000, "chains": 50}
        graph = load_graph(spec)
        results[mode] = run(graph, graph.build(), evidence)
    for row in range(5):
        factors = [(["w0"], torch.tensor([0.5, 0.3, 0.2])), (["w0", "w1"], torch.eye(3))]
        factors += [([f"w{a}"], tables[a][:, seen[row, a]]) for a in range(2) if seen[row, a] >= 0]
        truth, log_z = enumerate_tables({"w0": 3, "w1": 3}, factors)
        for name in truth:
            torch.testing.assert_close(results["variational"][name].probs[row], truth[name], rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(results["metropolis_hastings"][name].probs[row], truth[name], rtol=0, atol=0.01)
        assert float(results["variational"].log_evidence[row]) == pytest.approx(log_z, abs=1e-7)
    assert results["variational"].exact and not results["metropolis_hastings"].exact
    assert results["metropolis_hastings"].bound == "none" and "samples" in results["metropolis_hastings"].reason


def test_what_an_agent_rules_out_is_never_its_name():
    logits = likelihoods(2, rows=6)
    logits[0][:, 2] = -torch.inf
    for mode in MODES:
        reply, inbox = infer(build(2, mode), logits)
        for name, one in reply.messages.items():
            assert bool(one.logits.isfinite().all()) or mode == "variational"
            assert not bool((one * inbox[name]).probs.isnan().any())
        assert float((reply.messages["agents[0]"] * inbox["agents[0]"]).probs[:, 2].max()) == 0


def test_acceptance_is_reported_and_falls_with_disagreement():
    logits = likelihoods(2, rows=50)
    alike, apart = (infer(build(2), [logits[0], other])[0].info["acceptance"] for other in (logits[0], logits[1]))
    assert float(alike.mean()) > float(apart.mean()) + 0.1 and 0 < float(apart.min()) and float(alike.max()) <= 1


def test_mistakes():
    with pytest.raises(GraphError, match=r"(?s)two or more.*found: 1"):
        build(1)
    ports = {f"agents[{a}]": Port(Role.CHILD, Family.CATEGORICAL, 3 + a) for a in range(2)}
    with pytest.raises(ShapeError, match="different numbers of symbols"):
        NamingGame(ports)
    with pytest.raises(ShapeError, match=r"(?s)5 numbers.*found: 2"):
        build(2, prior=[0.5, 0.5])
    with pytest.raises(GraphError, match="no distribution"):
        build(2, prior=[0.5, 0.5, 0.5, 0.0, 0.0])
    with pytest.raises(MessageError, match="every category is excluded"):
        infer(build(2), [torch.full((1, 5), -torch.inf).double(), torch.zeros(1, 5).double()])
