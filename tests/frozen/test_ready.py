"""Encoders that an extra installs: what they give for real rows, one by one as in a batch, and what is said without them."""

import importlib

import numpy as np
import pytest

import serket
from serket.errors import SerketError
from serket.modules.frozen.ready import pictures, sentences, speech
from serket.registry import encoder_of

NAMES = {"efficientnet_lite0": (pictures, "efficientnet_lite_pytorch", 1280), "speech_embedding": (speech, "onnxruntime", 96),
         "all_minilm_l6": (sentences, "transformers", 384)}  # fmt: skip


def text(*lines):
    return np.ascontiguousarray(np.char.encode(np.array(lines), "utf-8"))[:, None].view(np.uint8)


def rows_of(name):
    rng = np.random.default_rng(0)
    if name == "efficientnet_lite0":
        return rng.integers(0, 256, (3, 96, 96, 3)).astype(np.uint8)
    if name == "speech_embedding":
        return (3000 * rng.normal(size=(3, 16000))).astype(np.int16)
    return text("a ripe banana", "a long tropical fruit in a peel", "a heavy hammer, for driving nails")


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_read_one_by_one_as_in_a_batch(name):
    module, package, width = NAMES[name]
    pytest.importorskip(package, reason="the extra 'senses' is not installed")
    encode, rows = encoder_of(name).function, rows_of(name)
    together = encode(rows)
    assert together.shape == (3, width) and np.isfinite(together).all() and together.std() > 0
    assert np.allclose(encode(rows[1:2])[0], together[1], atol=1e-4)


def test_words_that_mean_alike_are_close():
    pytest.importorskip("transformers", reason="the extra 'senses' is not installed")
    banana, fruit, hammer = sentences.all_minilm_l6(rows_of("all_minilm_l6"))
    assert banana @ fruit > 2 * abs(banana @ hammer) and np.isclose(banana @ banana, 1)


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_package_is_an_error_that_names_the_extra(name, monkeypatch):
    module, package, _ = NAMES[name]
    (module._network if hasattr(module, "_network") else module._networks).cache_clear()
    real = importlib.import_module

    def absent(wanted, *rest):
        if wanted == package:
            raise ImportError(f"No module named '{wanted}'")
        return real(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(SerketError, match=r"serket-perception\[senses\]"):
        encoder_of(name).function(rows_of(name))


def test_the_graph_is_checked_without_the_encoders(monkeypatch):
    def absent(wanted, *rest):
        raise ImportError(wanted)

    graph = serket.load_graph("senses")
    monkeypatch.setattr(importlib, "import_module", absent)
    assert set(graph.build()) == {"image", "sound", "caption", "names", "body"}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("efficientnet_lite0", np.zeros((2, 96, 96), np.uint8)),
        ("speech_embedding", np.zeros((2, 8000), np.int16)),
        ("all_minilm_l6", np.zeros((2, 8))),
    ],
)
def test_rows_of_another_shape_are_refused(name, rows):
    with pytest.raises(SerketError, match="expected"):
        encoder_of(name).function(rows)
