"""Which test is run for which case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from serket.errors import SerketError
from serket.testing.case import Case

__all__ = ["expect", "only", "over"]

F = TypeVar("F", bound=Callable[..., Any])


def expect(holds: object, owed: str, fix: str) -> None:
    """Fail unless it holds, saying what a module owes and how to mend one that does not give it."""
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(f"{owed}\n  fix: {fix}")


def only(applies: Callable[[Case], bool]) -> Callable[[F], F]:
    """Run a test for the cases of which this is true; use it as a decorator."""

    def mark(test: F) -> F:
        test.__dict__["applies"] = applies
        return test

    return mark


def over(cases: Sequence[Case]) -> Callable[[Any], None]:
    """Return the hook that runs the contract suite over some cases.

    Write ``pytest_generate_tests = over([Case(...)])`` in a test file, below
    ``from serket.testing.infer import *`` and ``from serket.testing.fit import *``.
    """

    def generate(metafunc: Any) -> None:
        if "case" in metafunc.fixturenames:
            applies = getattr(metafunc.function, "applies", lambda case: True)
            try:
                found = [case for case in cases if applies(case.checked())]
            except SerketError as error:  # nothing can be tested, and a traceback would not say more
                raise pytest.fail.Exception(str(error), pytrace=False) from None
            metafunc.parametrize("case", found, ids=str)

    return generate
