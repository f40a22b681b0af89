"""Plates: many frames and one episode, tied to one value."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from serket.errors import GraphError
from serket.messages import Message
from serket.modules.layout import Layout
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["Broadcast", "Pool"]

_NOTE = "an episode stands on every row of its sequence, so no evidence is offered: it would be counted once per row"


@register("pool")
class Pool:
    """p(z_1, ..., z_T | s) = prod_t delta(z_t = s): the frames of an episode show one and the same thing.

    Rows are frames, and the sequence of a row is its episode. The variable of the episode stands on every row, with one
    and the same belief. With n the inbox of ``episode`` at the first row of the sequence and m_t that of ``frames``,

    - to ``episode``, in every row: prod_t m_t(s).
    - to the frame at row t: n(z_t) prod_{u != t} m_u(z_t), multiplied from both ends and never divided.

    The episode's inbox is heard at the first row only, so that a sense of the whole episode which stands on all of its
    rows counts once. Exact (Koller & Friedman 2009, section 10.2: an equality is a table of zeros and ones).

    Args:
        ports: ``episode`` (parent) and ``frames`` (child, the prior's owner), of one family and size.

    Raises:
        GraphError: the ports differ in family or size.
    """

    ports: Mapping[str, Port] = {"episode": Port(Role.PARENT, None), "frames": Port(Role.CHILD, None)}
    plate = "time"
    exact = True
    note = _NOTE

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self.ports = _alike(ports)

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Multiply the messages of every sequence; see the class for the formulas. No evidence."""
        return _tied(inbox, evidence, ports)


@register("broadcast")
class Broadcast:
    """p(s | z_1, ..., z_T) = prod_t delta(z_t = s): what ``pool`` is, with the episode below the frames.

    An equality is no distribution of s given its parents: they hear each other, whether anything is said of s or not.
    Use it where the frames have a prior of their own and the episode has none: whatever speaks of the episode, such as
    a name heard once, is passed to every frame. The priors of the frames multiply, one per frame. Same messages.

    Args:
        ports: ``episode`` (child, the prior's owner) and ``frames`` (parent), of one family and size.

    Raises:
        GraphError: the ports differ in family or size.
    """

    ports: Mapping[str, Port] = {"episode": Port(Role.CHILD, None), "frames": Port(Role.PARENT, None)}
    plate = "time"
    exact = True
    note = _NOTE

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self.ports = _alike(ports)

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Multiply the messages of every sequence, as a pool does. No evidence."""
        return _tied(inbox, evidence, ports)


def _tied(inbox: Mapping[str, Message], evidence: Evidence, ports: frozenset[str] | None) -> Reply:
    layout = Layout.of(evidence)
    asked = frozenset(inbox) if ports is None else ports
    if not layout.steps:
        return Reply({port: message for port, message in inbox.items() if port in asked})
    frames, back = inbox["frames"][layout.order], layout.order.argsort()
    # prefix[t]: the messages before step t of the sequences that reach it; suffix[t]: those after it.
    prefix: list[Message] = [inbox["episode"][layout.order][layout.steps[0]]]
    for earlier, step in zip(layout.steps, layout.steps[1:], strict=False):
        prefix.append((prefix[-1] * frames[earlier])[: step.stop - step.start])
    last = frames[layout.steps[-1]]
    suffix: list[Message] = [last.mask(torch.zeros_like(last.is_vacuous()))]
    for earlier, step in reversed(list(zip(layout.steps, layout.steps[1:], strict=False))):
        after = suffix[-1] * frames[step]
        ended = frames[slice(earlier.start + step.stop - step.start, earlier.stop)]
        suffix.append(_joined([after, ended.mask(torch.zeros_like(ended.is_vacuous()))]))
    suffix.reverse()
    messages = {}
    if "episode" in asked:
        whole = suffix[0] * frames[layout.steps[0]]
        messages["episode"] = whole[layout.sequence][back]
    if "frames" in asked:
        others = [before * after for before, after in zip(prefix, suffix, strict=True)]
        messages["frames"] = _joined(others)[back]
    return Reply({port: messages[port] for port in inbox if port in messages})


def _joined(parts: list[Message]) -> Message:
    names = parts[0].tensors()
    return type(parts[0])(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in names})


def _alike(ports: Mapping[str, Port]) -> Mapping[str, Port]:
    episode, frames = ports["episode"], ports["frames"]
    if (episode.family, episode.size) != (frames.family, frames.size):
        raise GraphError(
            "an episode and its frames are one quantity",
            expected="variables of one family and size",
            found=f"episode: {episode.family}({episode.size}), frames: {frames.family}({frames.size})",
        )
    return ports
