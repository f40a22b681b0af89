"""A Reply as bytes and back: all that a socket between two modules could carry."""

import json

import safetensors.torch
import torch

from serket.messages import Categorical, Dirichlet, Gaussian, Particles, Point
from serket.protocol import Reply

KINDS = {kind.__name__: kind for kind in (Categorical, Dirichlet, Gaussian, Particles, Point)}


def pack(reply):
    tensors = {f"message/{p}/{part}": v for p, m in reply.messages.items() for part, v in m.tensors().items()}
    tensors |= {f"info/{name}": torch.as_tensor(value) for name, value in reply.info.items()}
    tensors |= {} if reply.log_evidence is None else {"log_evidence": reply.log_evidence}
    described = {
        "kinds": {port: type(message).__name__ for port, message in reply.messages.items()},
        "includes": {port: sorted(parts) for port, parts in reply.includes.items()},
        "tilted": sorted(reply.tilted),
        "bound": reply.bound,
    }
    alone = {name: value.clone().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save(alone, {"reply": json.dumps(described)})


def unpack(packet):
    header = json.loads(packet[8 : 8 + int.from_bytes(packet[:8], "little")])
    described, tensors = json.loads(header["__metadata__"]["reply"]), safetensors.torch.load(packet)
    parts = {p: {n.rsplit("/", 1)[1]: v for n, v in tensors.items() if n.startswith(f"message/{p}/")}
             for p in described["kinds"]}  # fmt: skip
    messages = {p: KINDS[kind](**parts[p]) for p, kind in described["kinds"].items()}
    includes = {port: frozenset(names) for port, names in described["includes"].items()}
    info = {name.removeprefix("info/"): value for name, value in tensors.items() if name.startswith("info/")}
    evidence = tensors.get("log_evidence")
    return Reply(messages, includes, frozenset(described["tilted"]), evidence, described["bound"], info)
