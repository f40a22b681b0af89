"""A transformer from a local folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from serket.errors import GraphError
from serket.modules.frozen.files import hashed, installed, located, needed, part
from serket.modules.frozen.reading import Frozen
from serket.registry import register

__all__ = ["Transformers"]

# Of the files of a folder, those that neither model nor tokenizer reads: weights of other libraries, and notes.
OTHERS = re.compile(r"(pytorch|tf|flax|rust)_model\b.*|training_args\.bin|.*\.(md|onnx)|\..*")


@register("transformers")
@dataclass(kw_only=True, eq=False, repr=False)
class Transformers(Frozen):
    """A model folder: config.json and model.safetensors, for text a tokenizer.json. Nothing is fetched, no code is run.

    Rows of bytes (``uint8``, UTF-8, padded by zeros) are text and go through the folder's tokenizer; other rows are
    the model's first input (pixel values, sound) as they are. Padding a text does not change its embedding but for
    rounding.

    Args:
        folder: a path, or ``package:NAME/path``.
        pooling: ``mean`` over tokens, or ``cls``, the first.
        longest: tokens of a text that are read.

    Options of every frozen encoder as in :class:`Frozen`.
    """

    paths: ClassVar[tuple[str, ...]] = ("folder",)
    folder: str
    pooling: Literal["mean", "cls"] = "mean"
    longest: int = 256

    def prepare(self) -> None:
        """Find the folder's files and the package."""
        part(self.folder, ("config.json", "model.safetensors"), self.largest_mb)  # without these it is no model
        installed("transformers", "transformers")
        others = sorted(one.name for one in located(self.folder).iterdir() if one.is_file())
        others = [name for name in others if not OTHERS.fullmatch(name)]  # each kind of tokenizer has files of its own
        self._files = part(self.folder, tuple(others), self.largest_mb)
        self._network: Any = None
        self._tokenizer: Any = None

    def _opened(self) -> Any:
        if self._network is None:
            library, place = needed("transformers", "transformers"), str(located(self.folder))
            safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            bars = library.utils.logging
            shown = bars.is_progress_bar_enabled()
            bars.disable_progress_bar()
            try:
                network, about = library.AutoModel.from_pretrained(
                    place, **safe, use_safetensors=True, dtype=torch.float32, output_loading_info=True
                )
            except Exception as error:  # whatever the library raises
                raise GraphError(
                    "transformers cannot open the folder",
                    where=self.folder,
                    found=_line(error),
                    fix="the folder has to be of a model that transformers itself knows",
                ) from None
            finally:
                if shown:
                    bars.enable_progress_bar()
            missing = [name for name in about["missing_keys"] if "pooler" not in name]  # of no use to mean and cls
            wrong = missing or list(about["mismatched_keys"])
            if wrong:
                raise GraphError(
                    "the weights are of another architecture",
                    where=self.folder,
                    found=f"missing or of another shape: {', '.join(str(one) for one in sorted(wrong)[:4])}",
                    fix="config.json and model.safetensors have to be of one model",
                )
            self._network = network.requires_grad_(False).eval()
        return self._network

    def encode(self, values: Tensor) -> Any:
        """Run it on a batch, and pool."""
        network = self._opened().to(values.device)
        if values.dtype != torch.uint8 or values.dim() != 2:
            return self._pooled(network(values.float()).last_hidden_state, None)
        tokens = self._tokens(values)
        tokens = {name: value.to(values.device) for name, value in tokens.items()}
        return self._pooled(network(**tokens).last_hidden_state, tokens["attention_mask"])

    def _tokens(self, values: Tensor) -> Any:
        if self._tokenizer is None:
            library, place = needed("transformers", "transformers"), str(located(self.folder))
            try:
                self._read = False  # its files are read now
                self._tokenizer = library.AutoTokenizer.from_pretrained(
                    place, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:
                raise GraphError(
                    "the folder has no tokenizer that can be read",
                    where=self.folder,
                    found=_line(error),
                    fix="add its tokenizer.json",
                ) from None
        texts = [bytes(row).rstrip(b"\0").decode("utf-8", "replace") for row in np.asarray(values.cpu())]
        return self._tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")

    def _pooled(self, states: Tensor, mask: Tensor | None) -> Tensor:
        if self.pooling == "cls":
            return states[:, 0]
        weights = torch.ones_like(states[..., :1]) if mask is None else mask.unsqueeze(-1).to(states)
        return (states * weights).sum(1) / weights.sum(1).clamp_min(1)

    def identity(self) -> str:
        """Hash config, weights, all files of the tokenizer, and pooling."""
        names = [one.name for one in self._files]
        return hashed(f"transformers {self.pooling} {self.longest} {names}", self._files)

    def place(self) -> str:
        """Tell which folder."""
        return self.folder


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
