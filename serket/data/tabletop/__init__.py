"""A gripper and twenty categories of objects, recorded in MuJoCo; ``python -m serket.data.tabletop`` records more."""

from serket.data.tabletop.objects import CATEGORIES

__all__ = ["CATEGORIES"]
