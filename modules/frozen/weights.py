"""Weights of a network from a safetensors file, each where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from serket.errors import GraphError

__all__ = ["filled", "tensors_of"]


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, half precision widened to float32.

    Raises:
        GraphError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held = load_file(path)
    except SafetensorError as error:
        raise GraphError(
            "the weights cannot be read",
            where=str(path),
            expected="a safetensors file",
            found=str(error),
            fix="save them with safetensors.torch.save_file",
        ) from None
    half = (torch.float16, torch.bfloat16)
    return {name: value.float() if value.dtype in half else value for name, value in held.items()}


def filled(network: torch.nn.Module, weights: Mapping[str, Tensor], where: str) -> torch.nn.Module:
    """Give a network its weights, all of them and no others, and put it in evaluation mode.

    Raises:
        GraphError: the weights are of another architecture; what is missing, unexpected or of another shape is listed.
    """
    network = network.float()
    own = network.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # they count, nothing reads them
    missing = [name for name in own if name not in weights and name not in counters]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        parts = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        raise GraphError(
            "the weights are of another architecture",
            where=where,
            found="; ".join(f"{what}: {_few(names)}" for what, names in parts.items() if names),
            fix="name the network they were trained with, or its arguments",
        )
    network.load_state_dict(dict(weights), strict=not counters)
    return network.requires_grad_(False).eval()


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
