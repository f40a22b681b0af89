"""Which label means what: Hungarian matching of one labelling to another."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["matching", "reference"]


def reference(log_bias: Tensor, labels: Tensor) -> Tensor:
    """What labels ought to mean, ``(C, N, K)``: what the bias says, if it gains 0.1 a row over the present labels."""
    return log_bias.exp() + 0.1 * one_hot(labels, log_bias.shape[-1])


def matching(labels: Tensor, target: Tensor) -> Tensor:
    """Return per chain the order of components in which labels ``(C, N)`` overlap most with the reference: ``(C, K)``.

    Hungarian matching; component ``order[c, k]`` is to be called k. What is empty keeps its place where it can.
    """
    components = target.shape[-1]
    overlap = target.mT @ one_hot(labels, components).to(target) + 1e-3 * torch.eye(components).to(target)
    orders = [linear_sum_assignment(one, maximize=True)[1] for one in overlap.cpu().numpy()]
    return torch.as_tensor(np.stack(orders), device=labels.device)
