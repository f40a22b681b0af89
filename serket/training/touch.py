"""What a change of some modules touches: who learned from them, and how much of it has to be learnt again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serket.graph.graph import Graph
from serket.protocol import Extends, Module, Role, Trainable, traits

__all__ = ["Touch", "touched"]


@dataclass(frozen=True, slots=True)
class Touch:
    """A module whose state changes.

    Args:
        name: of the module or composer.
        views: the ports that are learnt alone, or None for all of it.
        why: the variable it learned from, if it is not itself what changes.
        along: the composer that it learns on with, if it is not fitted itself.
    """

    name: str
    views: frozenset[str] | None = None
    why: str | None = None
    along: str | None = None


def touched(graph: Graph, modules: Mapping[str, Module], changed: frozenset[str]) -> dict[str, Touch]:
    """Return what is to be fitted where some modules are new or other ones, themselves included, in file order.

    A latent means what the module below it, its parent there, makes of it. Who learned from that meaning, a module or
    composer that holds the latent at a child port, learns it again, and so does what stands on that one. The chain ends
    at a composer that can learn one view alone (:class:`serket.protocol.Extends`): its shared latent means what it
    meant, and so do its other views. It ends at a composer that learns nothing, too: its views are one variable, of
    which the others keep the meaning. Any other module that learns nothing passes the change on.
    """
    found = {name: Touch(name) for name in graph.nodes if name in changed}
    reached, left = set(found), list(found)
    while left:
        below = left.pop(0)
        node = graph.nodes[below]
        for variable in [v for port, v in node.bindings.items() if node.ports[port].role == Role.PARENT]:
            for name, port in graph.bound(variable):
                ports, module = graph.nodes[name].ports, modules[name]
                if name in reached or not (ports[port].role == Role.CHILD or traits(module).listens):
                    continue
                if isinstance(module, Extends):
                    known = found[name].views if name in found else None
                    views = frozenset({port}) | (known or frozenset())
                    found[name] = Touch(name, views, variable)
                    if any(bound.role == Role.CHILD and other not in views for other, bound in ports.items()):
                        continue  # some view keeps what the shared latent means
                elif not isinstance(module, Trainable) and graph.nodes[name].kind == "composer":
                    continue
                reached.add(name)
                left.append(name)
                found[name] = Touch(name, None, variable)
    for name in [name for name, touch in found.items() if touch.views is None]:
        for other in traits(modules[name]).thaw:
            found.setdefault(other, Touch(other, along=name))
    return {name: found[name] for name in graph.nodes if name in found and isinstance(modules[name], Trainable)}
