"""How messages move: the schedule, the loop, convergence, evidence."""

from serket.engine.result import Result
from serket.engine.run import run
from serket.engine.schedule import Schedule, Step, schedule

__all__ = ["Result", "Schedule", "Step", "run", "schedule"]
