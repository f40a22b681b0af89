"""How a graph learns: every module alone, then what connects them."""

from serket.training.compose import compose
from serket.training.pretrain import Task, pretrain

__all__ = ["Task", "compose", "pretrain"]
