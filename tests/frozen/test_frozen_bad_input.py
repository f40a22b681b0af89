"""What a stranger's model can get wrong: each is told where, what was found and what to do; none is a traceback."""

import io
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import skops.io
import torch
from safetensors.torch import load_file, save_file
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import serket
from serket.errors import DataError, DataWarning, GraphError, SerketError, StateError
from serket.messages import Family
from serket.modules.frozen import torch as torch_encoder
from serket.protocol import Evidence, Port, Role
from serket.registry import lookup

FILES = Path(__file__).parent / "files"
LINEAR = {"network": "bad_linear", "weights": str(FILES / "linear.safetensors")}
serket.network("bad_linear")(torch.nn.Linear)


@serket.encoder("bad_halves")
def halves(x):
    """Cannot read rows that begin with a negative number."""
    return np.where(x[:, :1] < 0, np.nan, np.repeat(x, 2, axis=1))


class Dropping(torch.nn.Module):
    """In training for ever, as an export may be."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer.train()(x)


for name, layer in {"dropout": torch.nn.Dropout(0.5), "statistics": torch.nn.BatchNorm1d(3)}.items():
    serket.encoder(f"bad_{name}")(Dropping(layer))
serket.encoder("bad_centred")(lambda x: x - x.mean(0))
serket.encoder("bad_rows")(lambda x: x[:1])


def make(type, size=2, family=Family.GAUSSIAN, **options):
    return lookup(type, "module")(ports={"latent": Port(Role.PARENT, family, size)}, **options)


def rows(count=6, width=3):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def told(error, kind, *parts):
    text = str(error.value)
    assert error.type is kind and error.value.fix, text
    for part in parts:
        assert part in text, text
    assert max(map(len, text.splitlines())) < 330, text


@pytest.mark.parametrize("changed, parts", [
    ({"weight": (4, 3)}, ["of another shape: weight (4, 3), not (5, 3)"]),
    ({"bias": None}, ["missing: bias"]),
    ({"head.weight": (2, 2)}, ["unexpected: head.weight"]),
    ({"weight": (4, 3), "bias": None, **{f"layer.{i}": (1,) for i in range(9)}}, ["missing", "unexpected", "and 5 more"]),
])  # fmt: skip
def test_a_checkpoint_of_another_architecture(tmp_path, changed, parts):
    weights = load_file(FILES / "linear.safetensors")
    for name, shape in changed.items():
        weights.pop(name, None)
        weights |= {} if shape is None else {name: torch.zeros(shape)}
    save_file(weights, tmp_path / "w.safetensors")
    module = make(
        "torch",
        **{**LINEAR, "weights": str(tmp_path / "w.safetensors")},
        arguments={"in_features": 3, "out_features": 5},
    )
    with pytest.raises(GraphError) as error:
        module.embed(rows())
    told(error, GraphError, "of another architecture", *parts)


def test_half_precision_weights_are_computed_in_float32(tmp_path):
    weights = {name: value.half() for name, value in load_file(FILES / "linear.safetensors").items()}
    save_file(weights, tmp_path / "w.safetensors")
    options = {**LINEAR, "arguments": {"in_features": 3, "out_features": 5}}
    half = make("torch", **{**options, "weights": str(tmp_path / "w.safetensors")}).embed(rows())
    assert half.dtype == torch.float32
    expected = rows().float() @ weights["weight"].float().T + weights["bias"].float()
    torch.testing.assert_close(half, expected)
    assert not torch.equal(half, make("torch", **options).embed(rows()))


@pytest.mark.parametrize("type, options", [
    ("torch", {**LINEAR, "arguments": {"in_features": 3, "out_features": 5}}),
    ("onnx", {"file": str(FILES / "linear.onnx")}),
    ("callable", {"function": "bad_dropout"}),
    ("sklearn", {"estimator": "bad_scaler"}),
])  # fmt: skip
def test_a_wrong_input_size(type, options):
    serket.encoder("bad_scaler")(StandardScaler().fit(np.eye(3)))
    if type == "callable":
        serket.encoder("bad_linear_object")(torch.nn.Linear(3, 2))
        options = {"function": "bad_linear_object"}
    with pytest.raises(DataError) as error:
        make(type, **options).embed(rows(width=4))
    told(error, DataError, "does not take these rows", "rows of shape (4,)")


def test_an_encoder_that_gives_other_rows_than_it_got():
    with pytest.raises(DataError) as error:
        make("callable", function="bad_rows").embed(rows())
    told(error, DataError, "one embedding a row", "(6, E)", "(1, 3)")


@pytest.mark.parametrize("name", ["dropout", "statistics", "centred"])
def test_an_encoder_that_changes_its_answer_with_its_batch(name):
    values = {"dropout": rows(width=64).float(), "statistics": rows().float(), "centred": rows()}[name]
    with pytest.raises(DataError) as error:
        make("callable", function=f"bad_{name}").embed(values)
    told(error, DataError, "alone" if name == "statistics" else "changes its answer with its batch", "eval()")


def test_rows_that_cannot_be_read_are_missing_and_others_are_what_they_were():
    graph = {
        "serket": 1,
        "variables": {"z": {"family": "gaussian", "size": 3}},
        "modules": {"sense": {"type": "callable", "function": "bad_halves", "data": "x", "ports": {"latent": "z"}}},
    }
    good = np.abs(rows(20).numpy())
    bad = good.copy()
    bad[[3, 7], 0] = -1
    model = serket.fit(graph, {"x": good}, test_fraction=0)
    with pytest.warns(DataWarning, match=r"2 of 20 rows of x \(3, 7\)"):
        some = model.infer({"x": bad})
    all_ = model.infer({"x": good})
    missing = np.isin(np.arange(20), [3, 7])
    present = some.present
    assert np.array_equal(np.asarray(present)[:, 0], ~missing)
    assert torch.equal(some["z"].mean()[~missing], all_["z"].mean()[~missing])
    assert bool((some["z"].mean()[missing] == 0).all()), "nothing is known but the prior"
    assert bool((all_["z"].mean()[missing] != 0).any())


@pytest.mark.parametrize("package, type, options, extra", [
    ("onnxruntime", "onnx", {"file": str(FILES / "linear.onnx")}, "onnx"),
    ("skops", "sklearn", {"file": "model.skops"}, "skops"),
    ("transformers", "transformers", {"folder": str(FILES / "folder")}, "transformers"),
    ("timm", "timm", {"folder": str(FILES / "folder")}, "timm"),
])  # fmt: skip
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, type, options, extra):
    (tmp_path / "model.skops").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serket.modules.frozen.files.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(GraphError) as error:
        make(type, **options).embed(rows())
    told(error, GraphError, f"needs the package {package}", f'pip install "serket-perception[{extra}]"')


def test_a_model_file_over_the_limit():
    with pytest.raises(GraphError) as error:
        make("onnx", file=str(FILES / "linear.onnx"), largest_mb=1e-4)
    told(error, GraphError, "over the size limit", "0.0001 MB at most", "0.000208 MB", "largest_mb: ")


@pytest.mark.parametrize(
    "name", ["m.pkl", "m.pickle", "m.pt", "m.pth", "m.bin", "m.ckpt", "m.joblib", "m.npy", "m.npz", "m.h5"]
)
@pytest.mark.parametrize(
    "type, option", [("onnx", "file"), ("sklearn", "file"), ("torch", "program"), ("torch", "weights")]
)
def test_pickles_are_refused_before_they_are_opened(type, option, name):
    with pytest.raises(GraphError) as error:  # the file need not even be there
        make(type, **{option: name}, **({"network": "bad_linear"} if option == "weights" else {}))
    told(error, GraphError, "may execute code", name)


def test_a_folder_of_pickled_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    for type in ("transformers", "timm"):
        with pytest.raises(GraphError) as error:
            make(type, folder=str(tmp_path))
        told(error, GraphError, "no model.safetensors", "pytorch_model.bin may execute code", "save_file")


def test_a_skops_file_of_types_that_are_not_trusted(tmp_path):
    skops.io.dump(FunctionTransformer(_double), tmp_path / "m.skops")
    module = make("sklearn", file=str(tmp_path / "m.skops"))
    with pytest.raises(GraphError) as error:
        module.embed(rows())
    told(error, GraphError, "does not trust", "_double", "serket.encoder")


def _double(x):
    return 2 * x


def test_a_changed_weight_file_is_noticed_when_a_run_is_read(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes((FILES / "linear.safetensors").read_bytes())
    graph = tmp_path / "graph.yaml"
    graph.write_text(
        "serket: 1\nvariables: {z: {family: gaussian, size: 2}}\nmodules:\n  sense: {type: torch, network: bad_linear, "
        "weights: w.safetensors, arguments: {in_features: 3, out_features: 5}, data: x, ports: {latent: z}}\n"
    )  # a path relative to the graph file
    model = serket.fit(graph, {"x": rows().numpy()}, test_fraction=0)
    model.save(tmp_path / "run")
    again = serket.load(tmp_path / "run").infer({"x": rows().numpy()})
    assert torch.equal(again["z"].mean(), model.infer({"x": rows().numpy()})["z"].mean())
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(StateError) as error:
        serket.load(tmp_path / "run")
    told(error, StateError, "the encoder changed since the fit", "serket refit")
    stale = serket.load(tmp_path / "run", without="sense")
    with pytest.raises(SerketError, match="no state to go on from"):
        serket.refit(stale, "sense", {"x": rows().numpy()})
    anew = serket.refit(stale, "sense", {"x": rows().numpy()}, fresh=True, test_fraction=0)
    anew.save(tmp_path / "anew")
    assert (
        serket.load(tmp_path / "anew").modules["sense"].state()["mean"].allclose(anew.modules["sense"].state()["mean"])
    )
    weights.unlink()
    with pytest.raises(GraphError) as error:
        serket.load(tmp_path / "run")
    told(error, GraphError, "no such model file", "w.safetensors")
    other = {"type": "torch", "network": "bad_linear", "weights": str(FILES / "linear.safetensors"),
             "arguments": {"in_features": 3, "out_features": 5}, "data": "x", "ports": {"latent": "z"}}  # fmt: skip
    swapped = serket.swap(
        serket.load(tmp_path / "run", without="sense"), "sense", {"modules": {"sense": other}}, {"x": rows().numpy()}
    )
    assert swapped.changes[-1]["states"]["sense"]["before"] == "not read"


@pytest.mark.parametrize("options, parts", [
    ({"reading": "gaussian"}, ["prior", "divided out"]),
    ({"reading": "gaussian", "prior": {"mean": [0.0], "covariance": [[1.0]]}}, ["size 2"]),
    ({"reading": "gaussian", "prior": "uniform"}, ["standard"]),
    ({"prior": "standard"}, ["a point has no prior"]),
    ({"form": "logits"}, ["form"]),
    ({"reading": "categorical", "prior": "uniform"}, ["a gaussian variable"]),
    ({"family": Family.CATEGORICAL}, ["class frequencies"]),
    ({"family": Family.CATEGORICAL, "prior": [0.5, 0.6]}, ["sum to 1"]),
    ({"family": Family.CATEGORICAL, "prior": "uniform", "gate": 0.9}, ["gate"]),
])  # fmt: skip
def test_readings_that_do_not_fit(options, parts):
    with pytest.raises(GraphError) as error:
        make("callable", function="bad_halves", **options)
    told(error, GraphError, *parts)


@pytest.mark.parametrize("values, options, parts", [
    ([[0.0, 0.0, -1.0, 1.0]] * 3, {"reading": "gaussian", "prior": "standard"}, ["rows 0, 1, 2", "log_variance"]),
    ([[0.0, 1.0, 2.0]] * 3, {"reading": "gaussian", "prior": "standard"}, ["(rows, 4)", "(3, 3)"]),
    ([[0.4, 0.6]] * 3, {"family": Family.CATEGORICAL, "prior": "uniform"}, ["form: probabilities"]),
    ([[-1.0, 2.0]] * 3, {"family": Family.CATEGORICAL, "prior": "uniform", "form": "probabilities"}, ["form: logits"]),
    ([[1.0]] * 3, {}, ["smaller than its variable", "size 1"]),
    ([[1.0, 2.0]], {}, ["two observed rows"]),
    ([[1.0, 2.0, 3.0]] * 3, {"scaling": "none"}, ["as they are", "found: 3"]),
])  # fmt: skip
def test_embeddings_that_are_not_what_they_are_said_to_be(values, options, parts):
    module = make("callable", function="bad_halves", **options)
    evidence = Evidence.of(torch.tensor(values, dtype=torch.float64))
    family = options.get("family", Family.GAUSSIAN)
    inbox = {"latent": serket.protocol.uninformed(Port(Role.PARENT, family, 2), len(values), dtype=torch.float64)}
    with pytest.raises(DataError) as error:
        module.fit(evidence, inbox, generator=torch.Generator())
        module.infer(inbox, evidence, generator=torch.Generator())
    told(error, DataError, *parts)


def test_a_program_that_could_execute_code(tmp_path):
    """What torch.export.load would unpickle, evaluate or look up by name is refused before torch sees it."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()).eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3),), dynamic_shapes=free), tmp_path / "p.pt2")
    module = make("torch", program=str(tmp_path / "p.pt2"))
    torch.testing.assert_close(module.embed(rows().float()), network(rows().float()).detach())
    mark = tmp_path / "executed"
    attacks = {
        "the operator": (b"torch.ops.aten.relu.default", b"torch.serialization.os.system"),
        "the size": (b"Symbol('s", f"open('{mark}','w') or Symbol('s".encode()),
        "is pickled": (b'"use_pickle": false', b'"use_pickle": true'),
        "the name": (b'"name": "relu"', b'"name": "relu=print(1)"'),
        "inputs or outputs of type": (b'builtins.tuple', b'collections.defaultdict'),
    }  # fmt: skip
    for found, (old, new) in attacks.items():
        changed = tmp_path / "changed.pt2"
        hits = 0
        with zipfile.ZipFile(tmp_path / "p.pt2") as source, zipfile.ZipFile(changed, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                hits += content.count(old)
                target.writestr(name, content.replace(old, new))
        assert hits, found
        with pytest.raises(GraphError) as error:
            make("torch", program=str(changed)).embed(rows().float())
        told(error, GraphError, "could execute code", found)
    assert not mark.exists()
    (tmp_path / "p.pt2").write_bytes(b"nothing")
    with pytest.raises(GraphError) as error:
        make("torch", program=str(tmp_path / "p.pt2")).embed(rows())
    told(error, GraphError, "cannot be read")


@pytest.mark.parametrize("config, parts", [
    ({"model_args": {"checkpoint_path": "evil.pth"}}, ["checkpoint_path", "evil.pth"]),
    ({"model_args": {"pretrained": True}}, ["pretrained"]),
    ({"model_args": {"cache_dir": "elsewhere"}}, ["cache_dir"]),
    ({"model_args": {"pretrained_cfg_overlay": {"file": "evil.pth"}}}, ["pretrained_cfg_overlay"]),
    ({"model_args": {"img_size": {"file": "evil.pth"}}}, ["img_size"]),
    ({"architecture": "hf-hub:someone/model"}, ["hf-hub:someone/model", "architecture"]),
    ({"architecture": "local-dir:elsewhere"}, ["local-dir:elsewhere", "architecture"]),
])  # fmt: skip
def test_a_config_that_has_timm_read_something_else_is_refused(tmp_path, monkeypatch, config, parts):
    """timm unpickles a checkpoint_path and follows hf-hub: and local-dir: wherever they lead."""
    called = []
    timm = types.ModuleType("timm")
    timm.create_model = lambda *args, **options: called.append((args, options))
    monkeypatch.setitem(sys.modules, "timm", timm)
    about = {"mean": [0, 0, 0], "std": [1, 1, 1]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": about} | config))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(GraphError) as error:
        make("timm", folder=str(tmp_path)).embed(torch.zeros(2, 8, 8, 3))
    assert not called and error.value.fix and all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize("inner", [False, True])
def test_a_network_whose_tensors_are_in_another_file_is_refused(tmp_path, inner):
    """Neither its hash nor the limit would tell of that file."""
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    weights = onnx.numpy_helper.from_array(np.eye(3, dtype="f4"), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    if inner:
        nodes.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weights))
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], [] if inner else [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "whole.onnx")
    torch.testing.assert_close(make("onnx", file=str(tmp_path / "whole.onnx")).embed(rows()), rows().float())
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0,
              convert_attribute=True)  # fmt: skip
    assert (tmp_path / "m.data").exists()
    for group in (b"", bytes([0xF3, 0x07, 0xF4, 0x07])):  # a group of no known number, which its readers skip
        (tmp_path / "m.onnx").write_bytes(group + (tmp_path / "m.onnx").read_bytes())
        with pytest.raises(GraphError) as error:
            make("onnx", file=str(tmp_path / "m.onnx"))
        told(error, GraphError, "in another file", "save_as_external_data=False")


def test_every_file_that_a_tokenizer_may_read_is_hashed_and_limited(tmp_path):
    for name in ("config.json", "model.safetensors", "README.md", "pytorch_model.bin"):
        (tmp_path / name).write_text(name)
    found = [make("transformers", folder=str(tmp_path)).fingerprint()]
    for name in ("merges.txt", "vocab.json", "added_tokens.json", "sentencepiece.bpe.model"):
        (tmp_path / name).write_text(name)
        found.append(make("transformers", folder=str(tmp_path)).fingerprint())
    (tmp_path / "merges.txt").write_text("others")
    found.append(make("transformers", folder=str(tmp_path)).fingerprint())
    assert len(set(found)) == 6
    (tmp_path / "README.md").write_text("others")
    assert make("transformers", folder=str(tmp_path)).fingerprint() == found[-1]
    (tmp_path / "vocab.json").write_bytes(bytes(2000))
    with pytest.raises(GraphError) as error:
        make("transformers", folder=str(tmp_path), largest_mb=1e-3)
    told(error, GraphError, "over the size limit", "vocab.json")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("type, option", [("torch", "program"), ("sklearn", "file")])
def test_a_model_file_that_unpacks_to_more_than_the_limit(tmp_path, type, option, nested):
    path = tmp_path / {"torch": "m.pt2", "sklearn": "m.skops"}[type]
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/weights/weight_0", bytes(2_000_000))
    path.write_bytes(inner.getvalue())
    if nested:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("m.npz", inner.getvalue())
    assert path.stat().st_size < 1e4
    with pytest.raises(GraphError) as error:
        make(type, **{option: str(path)}, largest_mb=1)
    told(error, GraphError, "over the size limit", "1 MB at most", "found: 2 MB")


def test_a_fingerprint_is_of_what_was_loaded(tmp_path, monkeypatch):
    """Of a file that is replaced while a process runs; and it is hashed once."""
    weights = {"weight": torch.eye(3), "bias": torch.zeros(3)}
    options = {"network": "bad_linear", "weights": str(tmp_path / "w.safetensors")}
    options["arguments"] = {"in_features": 3, "out_features": 3}
    save_file(weights, options["weights"])
    hashes = []
    hashed = torch_encoder.hashed
    monkeypatch.setattr(torch_encoder, "hashed", lambda *args: hashes.append(args) or hashed(*args))
    module, late = make("torch", **options), make("torch", **options)
    before = [module.fingerprint(), late.fingerprint()]
    module.embed(rows())
    Path(options["weights"]).touch()  # written anew, the same
    make("torch", **options).embed(rows())
    save_file({**weights, "bias": torch.ones(3)}, tmp_path / "new.safetensors")
    (tmp_path / "new.safetensors").replace(options["weights"])
    torch.testing.assert_close(module.embed(rows()), rows().float())
    assert [module.fingerprint(), late.fingerprint()] == before and len(hashes) == 3
    assert make("torch", **options).fingerprint() != before[0]
    with pytest.raises(StateError) as error:
        late.embed(rows())
    told(error, StateError, "changed after it was hashed", "load the model again")
