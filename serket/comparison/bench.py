"""The bench composers are compared on: modules fitted once, one composer after another on the messages they send."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from serket.comparison.specs import Spec, entered
from serket.data import Dataset
from serket.errors import GraphError, SerketError
from serket.graph import Graph, Node, load_graph
from serket.graph.write import to_yaml
from serket.graph.yaml import read
from serket.inputs import dtype_of, gather, raw_keys
from serket.messages import Family
from serket.model import Model
from serket.protocol import Trainable, traits
from serket.training.compose import alone, compose
from serket.training.pretrain import Report, pretrain

__all__ = ["Bench", "Composed", "States"]

States = Mapping[str, Mapping[str, Tensor]]
"""Of fitted modules, by name."""


@dataclass(frozen=True, slots=True)
class Composed:
    """A model with one composer fitted: seconds of processor time that took, and numbers learnt."""

    model: Model
    cpu_seconds: float
    parameters: int

    def changed(self, states: States) -> list[str]:
        """Return the modules whose state is no longer what it was: those that the composer thawed."""
        now = {name: cast(Trainable, self.model.modules[name]).state() for name in states}
        same = {
            name: all(now[name][key].equal(value) for key, value in state.items()) for name, state in states.items()
        }
        return [name for name, is_same in same.items() if not is_same]


@dataclass(frozen=True, slots=True)
class Bench:
    """A graph's modules that read data, and the place of the composer over them.

    Args:
        graph: these modules, and the variables they are bound to.
        place: the composer's node as the graph has it.
        whole: these modules and the composer, as plain data to write a graph from.
    """

    graph: Graph
    place: Node
    whole: Mapping[str, Any]

    @classmethod
    def of(cls, graph: Graph) -> Bench:
        """Take what is compared out of a graph; what stands on the shared latent is left out.

        Raises:
            GraphError: no composer with a shared Gaussian latent over two views or more, each a module's that reads
                data.
        """
        places = [node for node in graph.nodes.values() if _compares(graph, node)]
        if not places:
            raise GraphError(
                "the graph has no composer to put another in the place of",
                where=graph.name,
                expected="a composer with a gaussian variable at 'shared', and 'views'",
                found=", ".join(f"{n.name}: {n.type}" for n in graph.nodes.values() if n.kind == "composer") or "none",
                fix="add one: graphs/digits.yaml has an example",
            )
        place = places[-1]
        views = [variable for port, variable in place.bindings.items() if port != "shared"]
        if len(views) < 2:
            raise GraphError(
                f"'{place.name}' has one view, so there is nothing to compose",
                where=place.where,
                expected="two views or more",
                found=", ".join(views),
                fix="bind another module's latent",
            )
        nodes = {n.name: n for n in graph.nodes.values() if n.data is not None and not traits(n.build()).listens}
        spoken = {variable for node in nodes.values() for variable in node.bindings.values()}
        if silent := [view for view in views if view not in spoken]:
            raise GraphError(
                f"no module that reads data is bound to '{silent[0]}'",
                where=place.where,
                expected="under each view a module with data:",
                fix="compare composers over such modules",
            )
        bound = spoken | {place.bindings["shared"]}
        variables = {name: variable for name, variable in graph.variables.items() if name in bound}
        whole = replace(graph, nodes={**nodes, place.name: place}, variables=variables, rounds=0)
        modules = {name: variable for name, variable in variables.items() if name in spoken}
        text = read(to_yaml(whole), graph.name).plain()
        return cls(replace(graph, nodes=nodes, variables=modules, rounds=0), place, text)

    @property
    def shared(self) -> str:
        """The shared variable."""
        return self.place.bindings["shared"]

    @property
    def keys(self) -> tuple[str, ...]:
        """The data keys under the composer's views, in the order of the views."""
        by_variable = {v: n.data for n in self.graph.nodes.values() for v in n.bindings.values()}
        keys = [by_variable[v] for port, v in self.place.bindings.items() if port != "shared"]
        return tuple(dict.fromkeys(key for key in keys if key is not None))

    def with_composer(self, spec: Spec, options: Mapping[str, Any]) -> Graph:
        """Return the graph with another composer; options the file gives one of the same type stay.

        Raises:
            SerketError: the composer cannot stand there, or has no such option.
        """
        entry = dict(self.whole["composers"][self.place.name])
        if spec.type != self.place.type:
            entry = {"type": spec.type, "ports": entry["ports"]}
        return self._graph(entered(entry, {**spec.options, **options}))

    def check(self, spec: Spec) -> None:
        """Build the graph with a composer, so that a mistake in its options is told before anything is trained.

        Raises:
            SerketError: it takes this place with its type's own options, and not with those given.
        """
        try:
            self.with_composer(spec, {}).build()
        except SerketError as error:
            try:
                self._graph({"type": spec.type, "ports": self.whole["composers"][self.place.name]["ports"]}).build()
            except SerketError:
                return  # whatever its options: that is a row of the table
            spec.blame(error, f"composers.{self.place.name}", self.place.where)
            raise

    def _graph(self, entry: Mapping[str, Any]) -> Graph:
        whole = load_graph({**self.whole, "composers": {self.place.name: entry}})
        return replace(whole, name=self.graph.name, folder=self.graph.folder)

    def pretrained(self, data: Dataset, seed: int, *, workers: int = 1, report: Report | None = None) -> States:
        """Fit every module alone on the training rows, and return their states."""
        modules, dtype = self.graph.build(), dtype_of(data, raw_keys(self.graph))
        evidence = gather(self.graph, modules, data, data.train, dtype=dtype)
        for _ in pretrain(alone(self.graph, modules, evidence, seed=seed, dtype=dtype), workers=workers, report=report):
            pass
        return {name: dict(module.state()) for name, module in modules.items() if isinstance(module, Trainable)}

    def composed(self, graph: Graph, states: States, data: Dataset, rows: Any, seed: int) -> Composed:
        """Fit a composer over modules in these states, on rows of the data."""
        modules, dtype = graph.build(), dtype_of(data, raw_keys(graph))
        for name, state in states.items():
            cast(Trainable, modules[name]).load({key: value.clone() for key, value in state.items()})
        evidence = gather(graph, modules, data, rows, dtype=dtype)
        seconds = 0.0
        for task in compose(graph, modules, evidence, seed=seed, dtype=dtype):
            start = time.process_time()
            task.run()
            seconds += time.process_time() - start
        composer = modules[self.place.name]
        state = composer.state() if isinstance(composer, Trainable) else {}
        learnt = sum(value.numel() for value in state.values() if value.is_floating_point())
        return Composed(Model(graph, modules, seed, dtype=dtype), seconds, learnt)


def _compares(graph: Graph, node: Node) -> bool:
    shared = graph.variables.get(node.bindings.get("shared", ""))
    views = any(port.startswith("views[") for port in node.bindings)
    return node.kind == "composer" and views and shared is not None and shared.family == Family.GAUSSIAN
