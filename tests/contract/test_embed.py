"""What every encoder promises of ``embed`` and ``fingerprint`` (:class:`serket.protocol.Embeds`), on rows of its own kind."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serket import encoder
from serket.protocol import Embeds
from serket.registry import lookup, registered
from serket.testing.case import generator, parent
from tests.contract.cases import FROZEN

ROOT = Path(__file__).parents[2]
ROWS = 5


@encoder("case_rows_twice")
def _twice(values):
    return 2 * values.reshape(len(values), -1)


def _scaler():
    from sklearn.preprocessing import StandardScaler

    encoder("case_other_scaler")(StandardScaler().fit([[0.0, 1.0], [2.0, 4.0]]))


_scaler()


def normal(*shape):
    return torch.randn(ROWS, *shape, generator=generator(3))


def images(*shape):
    return torch.randint(0, 256, (ROWS, *shape), generator=generator(3), dtype=torch.uint8)


# Per type: options, those of other weights, and raw rows.
TYPES = {
    "callable": ({"function": "case_rows"}, {"function": "case_rows_twice"}, normal(2, 2)),
    "onnx": ({"file": "linear.onnx"}, {"file": "other.onnx"}, normal(3)),
    "sklearn": ({"estimator": "case_scaler"}, {"estimator": "case_other_scaler"}, normal(2)),
    "timm": ({"folder": "timm"}, {"folder": "timm-other"}, images(32, 32, 3)),
    "torch": (
        {"weights": "linear.safetensors", "network": "case_linear", "arguments": {"in_features": 3, "out_features": 5}},
        {"weights": "other.safetensors", "network": "case_linear", "arguments": {"in_features": 3, "out_features": 5}},
        normal(3),
    ),
    "transformers": ({"folder": "vit"}, {"folder": "vit-other"}, normal(3, 8, 8)),
}
every = pytest.mark.parametrize("name", TYPES)
run = pytest.mark.parametrize("name", [name for name in TYPES if name != "timm"])  # it needs torchvision, see its tests


def made(folder, name, other=False):
    options = dict(TYPES[name][other])
    for option in ("file", "folder", "weights"):
        if option in options:
            options[option] = str(folder / options[option])
    size = {"sklearn": 2, "torch": 3}.get(name, 2)
    return lookup(name, "module")(ports={"latent": parent(size)}, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of each type, and a copy of each in which one weight differs in its last bits."""
    import onnx
    import transformers

    place = tmp_path_factory.mktemp("encoders")
    save_file(load_file(FROZEN / "linear.safetensors"), place / "linear.safetensors")
    network = onnx.load(FROZEN / "linear.onnx")
    onnx.save(network, place / "linear.onnx")
    weights = onnx.numpy_helper.to_array(network.graph.initializer[0]).copy()
    weights.flat[0] = np.nextafter(weights.flat[0], np.float32(9))
    network.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, network.graph.initializer[0].name))
    onnx.save(network, place / "other.onnx")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vit = transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **sizes))
    vit.save_pretrained(place / "vit")
    (place / "timm").mkdir()
    (place / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 2}))
    save_file({"fc.bias": torch.ones(2)}, place / "timm" / "model.safetensors")
    changes = [(place / "linear.safetensors", place / "other.safetensors")]
    for name in ("vit", "timm"):
        (place / f"{name}-other").mkdir()
        (place / f"{name}-other" / "config.json").write_text((place / name / "config.json").read_text())
        changes.append((place / name / "model.safetensors", place / f"{name}-other" / "model.safetensors"))
    for old, new in changes:
        tensors = load_file(old)
        first = next(iter(tensors.values())).view(-1)
        first[0] = torch.nextafter(first[0], first[0] + 1)
        save_file(tensors, new, metadata={"format": "pt"})
    return place


def test_every_encoder_is_here():
    shipped = {n for n, cls in registered("module").items() if hasattr(cls, "embed") and "serket." in cls.__module__}
    assert shipped == set(TYPES), "give each its raw rows in TYPES"


@run
def test_a_row_is_embedded_alike_alone_and_in_a_batch(folder, name):
    module, raw = made(folder, name), TYPES[name][2]
    assert isinstance(module, Embeds)
    before, together = module.fingerprint(), module.embed(raw.clone())
    assert module.fingerprint() == before  # use does not change what it is
    assert together.dim() == 2 and len(together) == ROWS and together.is_floating_point() and together.isfinite().all()
    alone = torch.cat([made(folder, name).embed(raw[row : row + 1].clone()) for row in range(ROWS)])
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert torch.allclose(module.embed(raw.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], rtol=1e-4, atol=1e-5)  # or a constant would pass


@run
def test_rows_of_nan_do_not_change_others(folder, name):
    module, raw = made(folder, name), TYPES[name][2].clone()
    if not raw.is_floating_point():
        raw = raw.float() / 255
    whole = module.embed(raw.clone())
    raw[[1, 3]] = torch.nan
    planted = module.embed(raw)
    assert torch.allclose(planted[[0, 2, 4]], whole[[0, 2, 4]], rtol=1e-4, atol=1e-5)
    assert planted[[1, 3]].isnan().all()


@every
def test_fingerprints_tell_weights_apart(folder, name):
    one, other = made(folder, name).fingerprint(), made(folder, name, other=True).fingerprint()
    assert len(one) == 64 and int(one, 16) and one != other and made(folder, name).fingerprint() == one


def test_fingerprints_are_the_same_in_another_process(folder):
    code = (
        "import sys; from pathlib import Path; from tests.contract.test_embed import TYPES, made\n"
        "print([made(Path(sys.argv[1]), name).fingerprint() for name in TYPES])"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str([made(folder, name).fingerprint() for name in TYPES])
