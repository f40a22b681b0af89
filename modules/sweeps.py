"""How many Gibbs sweeps the kept draws need."""

from __future__ import annotations

from serket.errors import GraphError

__all__ = ["enough"]


def enough(sweeps: int, draws: int, least: int) -> None:
    """Refuse fewer sweeps than ``least``, of which ``draws`` are kept.

    Raises:
        GraphError: at ``fit.sweeps``.
    """
    if sweeps < least:
        raise GraphError(
            "too few sweeps for the draws",
            where="fit.sweeps",
            expected=f"sweeps >= {least}, with draws: {draws}",
            found=str(sweeps),
            fix=f"write sweeps: {least} or more under fit, or lower draws",
        )
