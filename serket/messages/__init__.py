"""What crosses an edge: unnormalised potentials in natural parameters, and their algebra."""

from serket.messages.base import Family, Message
from serket.messages.categorical import Categorical
from serket.messages.gaussian import Gaussian
from serket.messages.moments import moment_match

__all__ = ["FAMILIES", "Categorical", "Family", "Gaussian", "Message", "moment_match"]

FAMILIES: dict[Family, type[Gaussian] | type[Categorical]] = {
    Family.GAUSSIAN: Gaussian,
    Family.CATEGORICAL: Categorical,
}
