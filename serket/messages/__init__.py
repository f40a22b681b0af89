"""What crosses an edge: unnormalised potentials in natural parameters, and their algebra."""

from serket.messages.atoms import Atoms, alike, projected
from serket.messages.base import Family, Message
from serket.messages.categorical import Categorical
from serket.messages.dirichlet import Dirichlet
from serket.messages.gaussian import Gaussian
from serket.messages.moments import moment_match, pooled_moments, some_of
from serket.messages.particles import Particles, systematic
from serket.messages.point import Point
from serket.messages.products import leave_one_out

__all__ = [
    "FAMILIES",
    "Atoms",
    "Categorical",
    "Dirichlet",
    "Family",
    "Gaussian",
    "Message",
    "Particles",
    "Point",
    "alike",
    "leave_one_out",
    "moment_match",
    "pooled_moments",
    "projected",
    "some_of",
    "systematic",
]

FAMILIES: dict[Family, type[Gaussian] | type[Categorical] | type[Dirichlet]] = {
    Family.GAUSSIAN: Gaussian,
    Family.CATEGORICAL: Categorical,
    Family.DIRICHLET: Dirichlet,
}
