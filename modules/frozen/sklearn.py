"""A fitted scikit-learn estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from serket.errors import GraphError
from serket.modules.frozen.files import found, hashed, installed, needed
from serket.modules.frozen.fingerprints import fingerprint_of
from serket.modules.frozen.reading import Frozen
from serket.registry import encoder_of, register

__all__ = ["Sklearn"]


@register("sklearn")
@dataclass(kw_only=True, eq=False, repr=False)
class Sklearn(Frozen):
    """An estimator passed in Python, ``serket.encoder(name)(fitted)``, or saved by ``skops.io.dump``.

    A skops file is refused if it holds a type that skops does not trust by itself; none can be trusted from YAML.
    Rows are flattened.

    Args:
        file: a path, or ``package:NAME/path``.
        estimator: the name it is registered under.
        method: what is called; ``predict_proba`` for a categorical reading, else ``transform``.

    Options of every frozen encoder as in :class:`Frozen`.
    """

    paths: ClassVar[tuple[str, ...]] = ("file",)
    file: str | None = None
    estimator: str | None = None
    method: Literal["transform", "predict_proba", "predict_log_proba", "decision_function", "predict"] | None = None

    def prepare(self) -> None:
        """Find the estimator, and what is called."""
        if (self.file is None) == (self.estimator is None):
            raise GraphError("an sklearn encoder is a file or an estimator", fix="file: FILE.skops, or estimator: NAME")
        self._called = self.method or ("predict_proba" if self.kind == "categorical" else "transform")
        if self.form is None and self._called == "predict_proba" and self.kind == "categorical":
            self.form = "probabilities"
        self._path = found(self.file, (".skops",), self.largest_mb) if self.file else None
        self._files = [self._path] if self._path else []
        self._estimator: Any = None
        if self._path is None:
            self._opened()
        else:
            installed("skops", "skops")

    def _opened(self) -> Any:
        if self._estimator is None:
            estimator = encoder_of(self.estimator).function if self.estimator else self._loaded()
            if not hasattr(estimator, self._called):
                known = [
                    name
                    for name in ("transform", "predict_proba", "decision_function", "predict")
                    if hasattr(estimator, name)
                ]
                raise GraphError(
                    f"the estimator has no {self._called}",
                    found=type(estimator).__name__,
                    available=known,
                    fix="name the method:",
                )
            self._estimator = estimator
        return self._estimator

    def _loaded(self) -> Any:
        io = needed("skops.io", "skops")
        try:
            unknown = io.get_untrusted_types(file=self._path)
        except Exception as error:  # a damaged file: whatever skops raises
            raise GraphError(
                "skops cannot read the file",
                where=self.file,
                found=f"{type(error).__name__}: {error}",
                fix="save it again: skops.io.dump(estimator, file)",
            ) from None
        if unknown:
            raise GraphError(
                "the file holds types that skops does not trust",
                where=self.file,
                found=", ".join(unknown[:4]),
                fix='load it yourself, if you trust it, and pass it: serket.encoder("name")(estimator)',
            )
        return io.load(self._path, trusted=[])

    def encode(self, values: Tensor) -> Any:
        """Call its method on flat rows."""
        found = getattr(self._opened(), self._called)(values.flatten(1).cpu().numpy())
        return torch.as_tensor(found.toarray() if hasattr(found, "toarray") else found)

    def identity(self) -> str:
        """Hash the file, or all the estimator holds."""
        if self._path is not None:
            return hashed(f"sklearn {self._called}", [self._path])
        named = encoder_of(self.estimator or "")
        return fingerprint_of([self._called, named.function], self.estimator or "", named.version)

    def place(self) -> str:
        """Tell which."""
        return self.file or f"estimator '{self.estimator}'"
