"""What every module promises of ``infer``: the suite of :mod:`serket.testing` over all registered types."""

from serket.testing import over
from serket.testing.infer import *  # noqa: F403
from tests.contract.cases import CASES

pytest_generate_tests = over(CASES)
