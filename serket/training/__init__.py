"""How a graph learns: every module alone, then what connects them."""

from serket.training.align import align
from serket.training.compose import compose
from serket.training.mutual import Step, mutual
from serket.training.pretrain import Task, pretrain

__all__ = ["Step", "Task", "align", "compose", "mutual", "pretrain"]
