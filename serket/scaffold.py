"""A new module to start from: a class that works, its contract test, a page and a package."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from serket.errors import GraphError, StateError
from serket.registry import registered
from serket.store.files import naming

__all__ = ["new_module"]

_MODULE = '''"""NAME: a sense that reads its latent with an offset and noise of its own: make it yours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

import serket


@serket.register("NAME")
class CLASS:
    """p(x | z) = N(x; z + offset, diag variance), offset and variance learnt.

    Args:
        ports: ``latent`` (parent), Gaussian, with as many dimensions as a row of the data.
        least: the smallest variance, in units of the data squared.
    """

    ports: Mapping[str, serket.Port] = {"latent": serket.Port(serket.Role.PARENT, serket.Family.GAUSSIAN)}
    exact = True

    def __init__(self, ports: Mapping[str, serket.Port], least: float = 1e-3) -> None:
        self.ports, self.least = ports, least
        self.offset: Tensor | None = None
        self.variance: Tensor | None = None

    def infer(
        self,
        inbox: Mapping[str, serket.Message],
        evidence: serket.Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> serket.Reply:
        """Send exp(eta' z - z' Lambda z / 2) with Lambda = 1 / variance, eta = Lambda (x - offset): no prior in it."""
        offset, variance = self._fitted(inbox["latent"].info)
        above = inbox["latent"]
        x = torch.zeros_like(above.info) if evidence.values is None else evidence.values.to(above.dtype)
        message = serket.Gaussian((x - offset) / variance, (1 / variance).expand_as(x)).mask(evidence.present)
        constant = torch.distributions.Normal(offset, variance.sqrt()).log_prob(x).sum(-1)
        log_evidence = (above * message).log_z() + torch.where(evidence.present, constant, 0.0)
        asked = self.ports if ports is None else ports
        return serket.Reply({port: message for port in asked}, log_evidence=log_evidence, bound="exact")

    def fit(
        self,
        evidence: serket.Evidence,
        inbox: Mapping[str, serket.Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: serket.protocol.Progress | None = None,
    ) -> serket.FitReport:
        """Match mean and variance: readings of z ~ N(m, v) have mean m + offset and variance v + variance.

        Where nothing is said of z, it is N(0, 1).
        """
        seen = evidence.present
        above = inbox["latent"][seen]
        unit = serket.Gaussian(torch.zeros_like(above.info), torch.ones_like(above.info))
        above = above.where(above.is_proper(), unit)
        gap = evidence.values[seen].to(above.dtype) - above.mean()
        self.offset = gap.mean(0)
        spread = ((gap - self.offset).square() - above.variance()).mean(0)
        self.variance = spread.clamp_min(self.least)
        if progress:
            progress(1, 1, f"variance {float(self.variance.mean()):.3g}")
        return serket.FitReport(1, history={"variance": [float(self.variance.mean())]})

    def state(self) -> Mapping[str, Tensor]:
        """Return all that ``infer`` needs."""
        offset, variance = self._fitted()
        return {"offset": offset, "variance": variance}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        self.offset, self.variance = state["offset"], state["variance"]

    def predict(
        self, inbox: Mapping[str, serket.Message], *, generator: torch.Generator
    ) -> torch.distributions.Distribution:
        """Return p(x | beliefs): the belief holds its prior already."""
        belief = inbox["latent"]
        offset, variance = self._fitted(belief.info)
        covariance = belief.covariance() + variance.diag()
        return torch.distributions.MultivariateNormal(belief.mean() + offset, covariance)

    def _fitted(self, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.offset is None or self.variance is None:
            raise serket.SerketError("the module was never fitted", fix="fit the graph, or load a run")
        return (self.offset, self.variance) if like is None else (self.offset.to(like), self.variance.to(like))
'''
_TEST = '''"""The contract: missing rows, echoes, batches, seeds, states, precisions. Run ``pytest`` in this folder."""

import NAME  # noqa: F401

from serket.testing import Case, normal, over, parent
from serket.testing.fit import *  # noqa: F403
from serket.testing.infer import *  # noqa: F403

pytest_generate_tests = over([
    Case("module", "NAME", "two", {"latent": parent(2)}, {}, normal(2), deterministic=True),
    Case("module", "NAME", "full", {"latent": parent(3)}, {"least": 0.1}, normal(3), full=True, deterministic=True),
])
'''
_GRAPH = """serket: 1
variables:
  z: {family: gaussian, size: 2}
modules:
  left:  {type: NAME, data: left,  ports: {latent: z}}
  right: {type: NAME, data: right, ports: {latent: z}}
"""
_PAGE = """# NAME

p(x | z) = N(x; z + offset, diag variance): a sense that reads its latent directly.

| key | default | meaning |
|---|---|---|
| port `latent` | | parent, Gaussian, as many dimensions as a row of the data |
| `least` | 1e-3 | the smallest variance, in units of the data squared |

```sh
python -m pytest                                     # the contract
serket check example.yaml --plugin NAME.py           # as a file
pip install -e . && serket check example.yaml        # as a package, by its entry point
```
"""
_PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "serket-DASHED"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["serket-perception"]

[project.entry-points."serket.modules"]
NAME = "NAME:CLASS"

[tool.setuptools]
py-modules = ["NAME"]
"""


def new_module(name: str, folder: str | Path | None = None) -> list[Path]:
    """Write a module that works, its contract test, an example graph, a page and a package; return the files.

    Args:
        name: its type in graphs, and its file: a lower-case Python name.
        folder: where; ``serket-NAME`` here if None. It must be empty, or not there.

    Raises:
        GraphError: no such name can be, or a type that ships has it.
        StateError: the folder holds something.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise GraphError("this cannot be the name of a module", expected="lower-case letters, digits and _, such as "
                         "thermometer", found=name, fix="choose another name")  # fmt: skip
    if name in registered("module") or name in ("serket", "torch", "test"):
        raise GraphError(f"'{name}' is the name of something else", available=registered("module"),
                         fix="choose a name that is not among these")  # fmt: skip
    where = Path(folder) if folder is not None else Path(f"serket-{name.replace('_', '-')}")
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise StateError("something stands there", where=str(where), fix="choose another --folder")
    texts = {f"{name}.py": _MODULE, f"test_{name}.py": _TEST, "example.yaml": _GRAPH, "README.md": _PAGE,
             "pyproject.toml": _PROJECT}  # fmt: skip
    title = "".join(word.capitalize() for word in name.split("_"))
    with naming(where):
        where.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            filled = text.replace("NAME", name).replace("CLASS", title).replace("DASHED", name.replace("_", "-"))
            (where / file).write_text(filled, encoding="utf-8")
    return [where / file for file in texts]
