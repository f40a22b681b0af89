"""Nobody registers a type and forgets its contract."""

from serket.protocol import Trainable
from serket.registry import registered
from tests.contract.cases import CASES, TRAINABLE


def test_every_registered_type_has_a_case():
    shipped = {
        (kind, name)
        for kind in ("module", "composer")
        for name, cls in registered(kind).items()
        if cls.__module__.startswith("serket.")  # other tests register toys
    }
    covered = {(case.kind, case.type) for case in CASES}
    assert shipped - covered == set(), "write a Case for each in tests/contract/cases.py"
    assert covered - shipped == set()


def test_every_trainable_type_is_fitted():
    trainable = {str(case) for case in CASES if isinstance(case.fresh(), Trainable)}
    assert trainable == {str(case) for case in TRAINABLE}
