"""One set of readings after another: the belief is carried, nothing else is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from serket.engine.blame import blamed
from serket.engine.gate import check_gate, deviations
from serket.engine.inference import Inference
from serket.engine.plan import Call, Edge, Plan, behind, plan
from serket.engine.reading import Layout, Readings
from serket.engine.share import weighed
from serket.errors import DataError, MessageError, SerketError
from serket.graph.graph import Graph
from serket.messages import Message, projected
from serket.protocol import Embeds, Evidence, Filters, Module, extrinsic, traits
from serket.rows import seeded

__all__ = ["Carried", "Stepper"]

OnError = Literal["fail", "skip", "restart"]
MOST_RESTARTS = 3
MOST_SWEEPS = 50
MOST_STEPS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """What goes from one set to the next: per module over time what the past says, and the time of that row."""

    filters: Mapping[str, Any]
    time_ns: int | None = None


class Stepper:
    """Infers single sets as :func:`serket.engine.run` infers a batch of one row, without computing evidence.

    With modules over time (:class:`serket.Filters`) the prior of their variables is what the past says; rows are one
    ``frame_ns`` apart, counted from the first set. A set belongs to the row nearest to it: a gap of several is
    predicted across, several sets of one row tell of one state, and a set of before tells of the row that stands. On a
    graph with a cycle, messages start where they were at the last set. Memory does not grow.

    Args:
        graph: who is bound to what.
        modules: fitted, by node name.
        seed: as in :func:`serket.engine.run`.
        dtype: of the messages.
        device: where the modules live.
        frame_ns: nanoseconds from one row to the next, in the data that modules over time were fitted on; None: every
            set is the next row.
        tau_ns: a reading reused at age a counts as its message to the power exp(-a / tau).
        gates: per sensor, how many standard deviations its message may be from what is believed without it.
        on_error: per sensor, what happens when its module raises or answers with NaN: ``fail`` passes the error on;
            ``skip`` goes on without it; ``restart`` makes it anew by ``reload``, three times at most.
        reload: returns a fresh module, by node name.
        layouts: type and shape of a row, of the keys that modules read which embed.
    """

    def __init__(
        self,
        graph: Graph,
        modules: Mapping[str, Module],
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        frame_ns: int | None = None,
        tau_ns: float | None = None,
        gates: Mapping[str, float] | None = None,
        on_error: Mapping[str, OnError] | None = None,
        reload: Callable[[str], Module] | None = None,
        layouts: Mapping[str, Layout] | None = None,
    ) -> None:
        self.graph, self.modules, self.dtype, self.device = graph, dict(modules), dtype, device
        self.plan: Plan = plan(graph, modules, dtype, device)
        self.gates, self.on_error, self._reload = dict(gates or {}), dict(on_error or {}), reload
        self._frame, self._tau = frame_ns, tau_ns
        self._embeds = {name for name, module in self.modules.items() if isinstance(module, Embeds)}
        self._readings = Readings(layouts or {}, device)
        for name in self.gates:
            check_gate(self.plan, graph, name)
        self._generators = {name: seeded(seed, name, device=device) for name in modules}
        self._variable = {edge: variable for variable, edges in self.plan.edges.items() for edge in edges}
        self._inboxes = {edge: ({edge[1]: none}, frozenset(edge[1:])) for edge, none in self.plan.vacuous.items()}
        self._leaves = {sensor.node for sensor in self.plan.sensors.values() if sensor.port}
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._seen = torch.ones(1, dtype=torch.bool, device=device)
        self._silent = Evidence.none(1, device)
        self._exponents = {name: node.exponents for name, node in graph.nodes.items()}
        self._own = {name: traits(module).own_prior for name, module in modules.items()}
        self._restarts: dict[str, int] = {}
        self._beyond: dict[str, float] = {}
        self._honest: dict[Edge, float] = {}
        self._warm: dict[Edge, Message] = {}
        self._still: dict[Edge, Message] = {}  # messages that no sensor of a set has had a word in
        self._tilted = False  # whether some message depends on what it answers
        self._blank: dict[Edge, Message] | None = None
        self._last: dict[str, tuple[Any, Message]] = {}  # readings that policy `latest` may use again
        self.state = Carried({name: None for name in self.plan.filters})
        self.carries = bool(self.plan.filters)

    def step(
        self, readings: Mapping[str, Any], time_ns: int = 0, ages_ns: Mapping[str, int] | None = None
    ) -> Inference:
        """Infer one set; none of the readings need be there, and then the belief is predicted.

        Args:
            readings: ``(D,)`` by data key.
            time_ns: of the set.
            ages_ns: of readings used again: how old they are.
        """
        seconds: dict[str, float] = {}
        failed: dict[str, str] = {}
        self._beyond, self._honest = {}, {}
        priors, carried, row_ns = self._priors(time_ns)
        said: dict[Edge, Message] = {}
        evidence: dict[str, Evidence] = {}
        for key, values in readings.items():
            self._read(key, values, ages_ns.get(key) if ages_ns else None, said, evidence, failed, seconds)
        messages = self._pass(said, evidence, priors, failed, seconds)
        gated: dict[str, float] = {}
        while self.gates and (worst := self._farthest(messages, said, priors)) is not None:
            key, away, edge = worst
            gated[key] = away
            del said[edge]
            messages = self._pass(said, evidence, priors, failed, seconds)
        beliefs = {name: self._fold(name, messages, priors) for name in self.plan.edges}
        doubted = self._doubted(readings) if self._honest else {}
        contribution, conflict = self._weigh(messages, said, evidence, priors, beliefs)
        if self.carries:
            self.state = Carried(self._told_on(messages, carried), row_ns)
        return Inference(beliefs, contribution, conflict, gated, failed, seconds, self._beyond, doubted)

    def start_anew(self) -> None:
        """Let time go on from the next set, whatever its clock says: it is the next row."""
        self.state = Carried(self.state.filters)

    def _told_on(self, messages: Mapping[Edge, Message], carried: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the past says after this set, by module over time."""
        after = {}
        for name, (port, variable) in self.plan.filters.items():
            said = self._fold(variable, messages, {})
            module = cast(Filters, self.modules[name])
            after[name] = module.updated(carried[name], {port: projected(said)}) if said else carried[name]
        return after

    def _doubted(self, readings: Mapping[str, Any]) -> dict[str, float]:
        """Return who is taken to lie, and how probably not; the variable where several speak of one view."""
        doubts = {behind(self.graph, edge): honest for edge, honest in self._honest.items() if honest < 0.5}
        return {name: honest for name, honest in doubts.items() if name in readings or name in self.graph.variables}

    def _priors(self, time_ns: int) -> tuple[Mapping[str, Message], dict[str, Any], int]:
        """Return the priors of this set, what they were told from, and the time of its row."""
        if not self.plan.filters:
            return self.plan.priors, {}, time_ns
        last, frame, steps = self.state.time_ns, self._frame, 1
        if last is not None and frame is not None:
            steps = max((2 * (time_ns - last) + frame) // (2 * frame), 0)  # to the nearest row, without loss
            time_ns = last + steps * frame
        priors, carried = dict(self.plan.priors), {}
        for name, (port, variable) in self.plan.filters.items():
            module = cast(Filters, self.modules[name])
            carried[name] = module.predicted(self.state.filters[name], min(steps, MOST_STEPS))
            priors[variable] = module.told(carried[name])[port].to(self.dtype, self.device)
        return priors, carried, time_ns

    def _read(
        self,
        key: str,
        values: Any,
        age: int | None,
        said: dict[Edge, Message],
        evidence: dict[str, Evidence],
        failed: dict[str, str],
        seconds: dict[str, float],
    ) -> None:
        """Let a sensor's module answer its reading; where it hears others too, keep the reading for its turn."""
        sensor = self.plan.sensors[key]
        if sensor.node in self._embeds:
            tensor = self._embedded(key, sensor.node, values, failed, seconds)
            if tensor is None:
                return
        else:
            tensor = (values if isinstance(values, Tensor) else torch.from_numpy(values)).unsqueeze(0)
        one = Evidence(self._row, tensor.to(self.device, self.dtype), self._seen)
        if sensor.port is None:
            evidence[sensor.node] = one
            return
        edge = sensor.node, sensor.port
        last = None if age is None else self._last.get(key)
        if last is not None and last[0] is values:
            message: Message | None = last[1]
        else:
            inbox, ports = self._inboxes[edge]
            message = self._ask(sensor.node, ports, inbox, one, failed, seconds).get(sensor.port)
            if message is not None and self._tau is not None:
                self._last[key] = values, message
        if message is not None:
            said[edge] = message if not age or self._tau is None else message ** math.exp(-age / self._tau)

    def _embedded(
        self, key: str, name: str, values: Any, failed: dict[str, str], seconds: dict[str, float]
    ) -> Tensor | None:
        """Return a reading's embedding; None where the encoder cannot read it: it is no reading then, and counted."""
        module, start = self.modules[name], time.perf_counter()
        try:
            with blamed(name, module):
                return self._readings.embedded(key, values, cast(Embeds, module))
        except Exception as error:
            if not isinstance(error, DataError) and self.on_error.get(key, "fail") == "fail":
                raise
            failed[key] = _told(error)
            if not isinstance(error, DataError):
                self._restart(name, key)
            return None
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    def _pass(
        self,
        said: Mapping[Edge, Message],
        evidence: Mapping[str, Evidence],
        priors: Mapping[str, Message],
        failed: dict[str, str],
        seconds: dict[str, float],
    ) -> dict[Edge, Message]:
        """Return the messages of all edges given what the sensors said; an edge without one says nothing."""
        messages = dict(said)
        if self.plan.tree:
            spoke = {node for node, _ in said} | evidence.keys() | self.plan.filters.keys()
            for call in self.plan.calls:
                still = [(call.node, port) for port in call.ports if self.plan.hears[call.node, port].isdisjoint(spoke)]
                known = [edge for edge in still if edge in self._still]
                for edge in known:
                    messages[edge] = self._still[edge]
                if asked := call.ports - {port for _, port in known} if known else call.ports:
                    self._call(call, asked, messages, evidence, priors, failed, seconds)
                    if still and not failed and not self._tilted:
                        self._still |= {edge: messages[edge] for edge in still}
            return messages
        messages = {**self._warm, **said}
        messages = {edge: m for edge, m in messages.items() if edge in said or edge[0] not in self._leaves}
        before = {name: self._fold(name, messages, priors) for name in self.plan.edges}
        tolerance = 1e-10 if self.dtype == torch.float64 else 1e-6
        for _ in range(MOST_SWEEPS):
            for call in self.plan.calls:
                self._call(call, call.ports, messages, evidence, priors, failed, seconds)
            now = {name: self._fold(name, messages, priors) for name in self.plan.edges}
            change = max(float(now[name].kl(before[name])) for name in now)
            before = now
            if change < tolerance:
                break
        self._warm = messages
        return messages

    def _call(
        self,
        call: Call,
        ports: frozenset[str],
        messages: dict[Edge, Message],
        evidence: Mapping[str, Evidence],
        priors: Mapping[str, Message],
        failed: dict[str, str],
        seconds: dict[str, float],
    ) -> None:
        inbox = {}
        for port, variable in self.graph.nodes[call.node].bindings.items():
            edge = call.node, port
            inbox[port] = (
                self.plan.vacuous[edge]
                if port in call.hidden
                else projected(self._fold(variable, messages, priors, edge))
            )
        own = evidence.get(call.node, self._silent)
        for port, message in self._ask(call.node, ports, inbox, own, failed, seconds).items():
            messages[call.node, port] = message

    def _ask(
        self,
        name: str,
        ports: frozenset[str],
        inbox: Mapping[str, Message],
        evidence: Evidence,
        failed: dict[str, str],
        seconds: dict[str, float],
    ) -> Mapping[str, Message]:
        """Call a module and return what it says; nothing where it fails and may."""
        start = time.perf_counter()
        module = self.modules[name]
        try:
            with blamed(name, module):
                reply = module.infer(inbox, evidence, generator=self._generators[name], ports=ports)
            if reply.tilted and not self._tilted:
                self._tilted, self._still = True, {}
            messages: Mapping[str, Message] = reply.messages
            if "widened" in reply.info and (power := float(reply.info["widened"])) < 1:
                self._beyond[self._key(name)] = power
            for told, honest in reply.info.items():
                if told.startswith("honest."):
                    self._honest[name, told.removeprefix("honest.")] = float(honest)
            if reply.includes:
                messages = extrinsic(reply, inbox, self._own[name])
                messages = {p: m.where(m.is_semidefinite(), m.semidefinite_part()) for p, m in messages.items()}
            for port, message in messages.items():
                if not _finite(message):
                    raise MessageError("the message is not finite", where=f"{name}.{port}")
        except Exception as error:
            key = self._key(name)
            if self.on_error.get(key, "fail") == "fail":
                raise
            failed[key] = _told(error)
            self._restart(name, key)
            return {}
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        if powers := self._exponents[name]:
            return {p: m ** powers[p] if p in powers else m for p, m in messages.items()}
        return messages

    def _key(self, name: str) -> str:
        return self.graph.nodes[name].data or name

    def _restart(self, name: str, key: str) -> None:
        if self.on_error[key] == "restart" and self._reload and self._restarts.get(name, 0) < MOST_RESTARTS:
            self._restarts[name] = self._restarts.get(name, 0) + 1
            self.modules[name] = self._reload(name)
            self._blank, self._still = None, {}

    def _fold(
        self,
        variable: str,
        messages: Mapping[Edge, Message],
        priors: Mapping[str, Message],
        skip: Edge | None = None,
    ) -> Any:
        """Multiply what is said at a variable, in file order; what says nothing is left out."""
        prior = priors.get(variable)
        product = None if variable in self.plan.flat else prior
        for edge in self.plan.edges[variable]:
            if edge != skip and (message := messages.get(edge)) is not None:
                product = message if product is None else product * message
        return prior if product is None else product

    def _farthest(
        self, messages: Mapping[Edge, Message], said: Mapping[Edge, Message], priors: Mapping[str, Message]
    ) -> tuple[str, float, Edge] | None:
        """Return the gated sensor that is farthest from what is believed without it, if beyond its gate."""
        worst: tuple[str, float, Edge] | None = None
        for key, gate in self.gates.items():
            sensor = self.plan.sensors[key]
            edge = sensor.node, cast(str, sensor.port)
            if edge in said:
                away = deviations(said[edge], self._fold(self._variable[edge], messages, priors, edge))
                if away > gate and (worst is None or away > worst[1]):
                    worst = key, away, edge
        return worst

    def _weigh(
        self,
        messages: Mapping[Edge, Message],
        said: Mapping[Edge, Message],
        evidence: Mapping[str, Evidence],
        priors: Mapping[str, Message],
        beliefs: Mapping[str, Message],
    ) -> tuple[dict[str, float], float]:
        """Return each sensor's contribution and the conflict, as :func:`serket.engine.diagnose.weigh` defines them."""
        several = len(said) + len(evidence) > 1
        blank = self._blanks(priors) if several else {}
        by_variable: dict[str, list[Edge]] = {}
        for edge in said:
            by_variable.setdefault(self._variable[edge], []).append(edge)
        gained: dict[str, float] = {}
        conflict = math.inf
        with torch.inference_mode():  # faster, and of what is computed here only floats go on
            for variable, edges in by_variable.items():
                prior = self._fold(variable, blank, priors) if several else None
                alone = [] if prior is None else [prior * said[edge] for edge in edges]
                cavities = [self._fold(variable, messages, priors, edge) for edge in edges]
                nats, least = weighed(beliefs[variable], cavities, alone, prior)
                gained |= zip([name for name, _ in edges], nats, strict=True)
                conflict = min(conflict, least)
        contribution = {key: gained[one.node] for key, one in self.plan.sensors.items() if one.node in gained}
        return contribution, conflict if math.isfinite(conflict) else 0.0

    def _blanks(self, priors: Mapping[str, Message]) -> Mapping[Edge, Message]:
        """Return the messages when no sensor speaks: the same for every set, unless something is carried over time."""
        if self._blank is not None:
            return self._blank
        warm, self._warm = self._warm, {}
        failed: dict[str, str] = {}
        blank = self._pass({}, {}, priors, failed, {})
        self._warm = warm
        if not failed and not self.plan.filters:
            self._blank = blank
        return blank


def _told(error: Exception) -> str:
    return str(error).splitlines()[0] if isinstance(error, SerketError) else repr(error)


def _finite(message: Message) -> bool:
    """Tell whether nothing in a message is NaN or +inf; -inf is allowed where it is a structural zero."""
    total = 0.0
    for values in message.tensors().values():
        if values.dtype.is_floating_point:
            total += float(values.sum())
    if math.isfinite(total):
        return True
    numbers = [values for values in message.tensors().values() if values.dtype.is_floating_point]
    return math.isfinite(sum(float(values.clamp_min(-1e30).sum()) for values in numbers))
