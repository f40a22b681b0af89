"""What every trainable module promises of ``fit``, ``state`` and ``load``: the suite over all registered types."""

from serket.testing import over
from serket.testing.fit import *  # noqa: F403
from tests.contract.cases import CASES

pytest_generate_tests = over(CASES)
