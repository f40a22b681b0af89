"""A second of speech to 96 numbers, by Google's speech embedding."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from serket.errors import ShapeError
from serket.modules.frozen.files import needed
from serket.modules.frozen.ready.packaged import EXTRA, packaged
from serket.registry import encoder

__all__ = ["speech_embedding"]

SPECTRUM = "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f"
EMBEDDING = "ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51"
WINDOW, STEP, BANDS = 76, 8, 32  # spectra that one embedding sees, 0.76 s; spectra from one to the next; bands of each
LEAST = WINDOW * 160 + 480  # samples of the shortest sound that gives one embedding
BATCH = 32


@encoder("speech_embedding", version=f"{SPECTRUM} {EMBEDDING} 1")
def speech_embedding(values: NDArray[Any]) -> NDArray[Any]:
    """Return the greatest of each of 96 features over the windows of a sound, ``(rows, 96)``.

    Windows of 0.76 s, every 80 ms, by the speech embedding of Lin et al. 2020 (Google), as it stands with its
    mel spectrum in the package openwakeword 0.4.0; of that package's models only these two are read.

    Args:
        values: ``(rows, samples)`` at 16 kHz, on the scale of 16-bit whole numbers; 0.79 s or longer.

    Raises:
        ShapeError: sounds that are too short, or of several channels.
        GraphError: a package is not installed.
    """
    if values.ndim != 2 or values.shape[1] < LEAST:
        expected = f"(rows, {LEAST} samples or more at 16 kHz)"
        raise ShapeError("no sounds that can be embedded", expected=expected, found=str(values.shape))
    spectrum, embedding = _networks()
    found = []
    for start in range(0, len(values), BATCH):
        sound = values[start : start + BATCH].astype(np.float32)
        spectra = spectrum.run(None, {"input": sound})[0].squeeze(1) / 10 + 2  # as the embedding was trained on
        windows = sliding_window_view(spectra, WINDOW, axis=1)[:, ::STEP].swapaxes(2, 3)
        parts = np.ascontiguousarray(windows.reshape(-1, WINDOW, BANDS, 1))
        found.append(embedding.run(None, {"input_1": parts})[0].reshape(*windows.shape[:2], -1).max(1))
    return np.concatenate(found)


@cache
def _networks() -> tuple[Any, Any]:
    runtime = needed("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    files = {"melspectrogram": SPECTRUM, "embedding_model": EMBEDDING}
    paths = [packaged("openwakeword", f"resources/models/{name}.onnx", code) for name, code in files.items()]
    spectrum, embedding = (
        runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]) for path in paths
    )
    return spectrum, embedding
