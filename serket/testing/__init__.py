"""The contract that every module keeps, as a suite for modules of yours, too: see docs/writing-a-module.md."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("serket.testing.infer", "serket.testing.fit")

from serket.testing.case import Case, bags, child, clumps, normal, parent, whole  # noqa: E402
from serket.testing.run import only, over  # noqa: E402

__all__ = ["Case", "bags", "child", "clumps", "normal", "only", "over", "parent", "whole"]
