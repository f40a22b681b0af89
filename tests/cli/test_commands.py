"""Every command, with its files, arrays and exit status (DESIGN, section 12)."""

import json

import numpy as np
import pytest

import serket as library
from tests.cli.conftest import POSITION, RAIN, TINY


@pytest.fixture
def tiny(tmp_path):
    """A graph of two small senses and its data: 80 rows, two kinds of thing, row 3 without a, row 70 without b."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    g = np.random.default_rng(0)
    label = g.integers(0, 2, 80)
    a = (g.normal(size=(80, 4)) * 0.3 + 2 * label[:, None]).astype("f4")
    b = (g.normal(size=(80, 3)) * 0.3 - label[:, None]).astype("f4")
    a[3] = np.nan
    b_mask = np.ones(80, bool)
    b_mask[70] = False
    np.savez(tmp_path / "tiny.npz", a=a, b=b, b_mask=b_mask, label=label, row_id=np.arange(80) + 1000)
    return tmp_path


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def test_a_run_writes_what_it_promises(serket, tiny):
    status, out, err = serket("run", "tiny.yaml", "--out", "r", "--seed", 3)
    assert status == 0, err
    assert "written to r" in out and "a: NaN or Inf in 1 of 80 rows (3)" in err
    written = {str(path.relative_to(tiny / "r")) for path in (tiny / "r").rglob("*") if path.is_file()}
    assert written == {
        "graph.yaml", "metrics.json", "events.jsonl", "manifest.json", "figures/graph.png", "figures/imagined.png",
        "figures/subsets.png", *(f"modules/{name}.safetensors" for name in ("a", "b", "body", "concepts")),
    }  # fmt: skip
    metrics = json.loads((tiny / "r/metrics.json").read_text())
    assert set(metrics["subsets"]) == {"a", "b", "a+b"} and set(metrics["coherence"]) == {"a>b", "b>a", "mean"}
    assert {"probe_accuracy", "concept_ari"} <= set(metrics["subsets"]["a+b"])
    assert metrics["rows"] == {"train": 64, "test": 16} and metrics["seed"] == 3
    assert {"a", "b", "body", "concepts", "total"} <= set(metrics["seconds"])
    kinds = [json.loads(line)["kind"] for line in (tiny / "r/events.jsonl").read_text().splitlines()]
    assert kinds[0] == "start" and kinds[-1] == "done"
    assert not (tiny / "r.partial").exists()
    assert all(len(line) <= 80 for line in out.splitlines())


def test_rounds_are_run_told_and_drawn(serket, tiny):
    status, out, err = serket("run", "tiny.yaml", "--out", "r", "--rounds", 2)
    assert "older" not in out
    assert status == 0, err
    metrics = json.loads((tiny / "r/metrics.json").read_text())
    assert {step["round"] for step in metrics["rounds"]} == {1, 2} and "rounds" in metrics["seconds"]
    assert {step["what"] for step in metrics["rounds"]} >= {"a", "b", "body", "concepts"}
    lines = [line for line in out.splitlines() if line.startswith("round ")]
    assert len(lines) == 2 and "nats a row" in " ".join(out.split())
    before = {subset: row["before_rounds"] for subset, row in metrics["subsets"].items()}
    assert set(before) == {"a", "b", "a+b"} and "before rounds" in out
    assert (tiny / "r/figures/rounds.png").stat().st_size > 5000
    told = [json.loads(line) for line in (tiny / "r/events.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in event.items() if k not in ("time", "kind")} for event in told if event["kind"] == "round"]
    assert told == metrics["rounds"]
    assert "rounds: 2" in (tiny / "r/graph.yaml").read_text()
    assert all(len(line) <= 80 for line in out.splitlines())


def test_the_same_seed_gives_the_same_bytes(serket, tiny):
    for out in ("r1", "r2"):
        assert serket("run", "tiny.yaml", "--out", out, "--quiet")[0] == 0
    for name in ("a", "b", "body", "concepts"):
        first, second = (tiny / out / "modules" / f"{name}.safetensors" for out in ("r1", "r2"))
        assert first.read_bytes() == second.read_bytes()
    assert (tiny / "r1/figures/imagined.png").read_bytes() == (tiny / "r2/figures/imagined.png").read_bytes()


def test_infer_generate_and_evaluate_a_run(serket, tiny):
    assert serket("run", "tiny.yaml", "--out", "r", "--json")[0] == 0
    assert serket("infer", "r", "--observe", "a", "--out", "only_a.npz")[0] == 0
    beliefs = arrays(tiny / "only_a.npz")
    assert beliefs["shared.mean"].shape == (80, 2) and beliefs["shared.cov"].shape == (80, 2, 2)
    assert beliefs["kind.probs"].shape == (80, 2) and np.allclose(beliefs["kind.probs"].sum(1), 1, atol=1e-5)
    assert beliefs["present"].shape == beliefs["contribution"].shape == (80, 2)
    assert not beliefs["present"][:, 1].any() and not beliefs["present"][3, 0] and beliefs["present"][4, 0]
    assert (beliefs["contribution"][:, 1] == 0).all() and (beliefs["contribution"][4:, 0] > 0).all()
    assert list(beliefs["row_id"]) == list(range(1000, 1080)) and beliefs["conflict"].shape == (80,)
    assert not beliefs["exact"] and beliefs["converged"] and beliefs["log_evidence"].shape == (80,)

    assert serket("generate", "r", "--given", "a", "--to", "b", "--samples", 5, "--out", "b.npz")[0] == 0
    imagined = arrays(tiny / "b.npz")
    assert imagined["b"].shape == imagined["b.std"].shape == (80, 3) and imagined["b.samples"].shape == (80, 5, 3)
    assert np.isfinite(imagined["b"]).all() and (imagined["b.std"] > 0).all()

    status, out, _ = serket("evaluate", "r", "--json")
    stored = json.loads((tiny / "r/metrics.json").read_text())
    measured = json.loads(out)
    assert status == 0 and measured["subsets"] == stored["subsets"] and measured["coherence"] == stored["coherence"]


def test_python_and_the_command_line_agree(serket, tiny):
    assert serket("run", "tiny.yaml", "--out", "r", "--quiet", "--seed", 1)[0] == 0
    serket("infer", "r", "--out", "beliefs.npz", "--quiet")
    stored, data = library.load("r"), arrays(tiny / "tiny.npz")
    fitted = library.fit("tiny.yaml", data, seed=1)
    given = {key: data[key] for key in ("a", "b", "b_mask")}
    for model in (stored, fitted):
        beliefs = model.infer({**given, "row_id": data["row_id"]})
        np.testing.assert_array_equal(beliefs["kind"].probs.numpy(), arrays(tiny / "beliefs.npz")["kind.probs"])
        np.testing.assert_array_equal(beliefs["shared"].mean().numpy(), arrays(tiny / "beliefs.npz")["shared.mean"])
    imagined = stored.generate("b", given={"a": data["a"]}, samples=2)
    assert imagined.mean.shape == (80, 3) and imagined.samples.shape == (80, 2, 3)
    fitted.save("again")
    assert set(library.load("again").graph.nodes) == {"a", "b", "concepts", "body"}


def test_without_labels_the_table_shows_what_needs_none(serket, tiny):
    data = arrays(tiny / "tiny.npz")
    del data["label"]
    np.savez(tiny / "tiny.npz", **data)
    status, out, _ = serket("run", "tiny.yaml", "--out", "r")
    assert status == 0 and "probe" not in out and "reconstruction" in out and "contribution" in out
    metrics = json.loads((tiny / "r/metrics.json").read_text())
    assert metrics["coherence"] == {} and "evidence" in metrics["subsets"]["a"]


def test_an_interrupted_run_goes_on(serket, tiny, monkeypatch):
    from serket.composer import LinearGaussianComposer

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LinearGaussianComposer, "fit", interrupt)
        status, _, err = serket("run", "tiny.yaml", "--out", "r")
    assert status == 130 and "goes on" in err and "Traceback" not in err and not (tiny / "r").exists()
    status, _, err = serket("run", "tiny.yaml", "--out", "r")
    assert status == 0 and err.count("kept from the interrupted run") == 2
    status, out, _ = serket("run", "tiny.yaml", "--out", "r")
    assert status == 0 and "written to r in place of an older run" in out


def test_an_interrupted_stream_promises_nothing(serket, tiny, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("serket.cli.stream.model_of", interrupt)
    status, _, err = serket("stream", "r", "--source", "x.npz")
    assert (status, err.strip()) == (130, "interrupted")


def test_rain_equals_the_sum_by_hand(serket, tmp_path):
    (tmp_path / "rain.yaml").write_text(RAIN)
    np.savez(tmp_path / "d.npz", reading=np.array([0, 1, 1]), reading_mask=np.array([True, True, False]))
    status, out, _ = serket("infer", "rain.yaml", "--data", "d.npz", "--out", "b.npz", "--json")
    assert status == 0 and json.loads(out)["exact"]
    beliefs = arrays(tmp_path / "b.npz")
    joint = np.array([0.8, 0.2])[:, None] * np.array([[0.9, 0.1], [0.2, 0.8]])  # rain x wet
    for row, like in enumerate(([0.95, 0.1], [0.05, 0.9], [1, 1])):
        both = joint * np.array(like)
        np.testing.assert_allclose(beliefs["rain.probs"][row], both.sum(1) / both.sum(), rtol=1e-10)
        np.testing.assert_allclose(beliefs["wet.probs"][row], both.sum(0) / both.sum(), rtol=1e-10)
        np.testing.assert_allclose(beliefs["log_evidence"][row], np.log(both.sum()), atol=1e-10)
    status, _, _ = serket("generate", "rain.yaml", "--data", "d.npz", "--to", "reading", "--out", "g.npz")
    wet = joint.sum(0)
    probs = wet @ np.array([[0.95, 0.05], [0.1, 0.9]])
    np.testing.assert_allclose(arrays(tmp_path / "g.npz")["reading.probs"][0, 0], probs, rtol=1e-10)


def test_position_equals_the_closed_form(serket, tmp_path):
    (tmp_path / "position.yaml").write_text(POSITION)
    np.savez(tmp_path / "d.npz", gps=np.array([[1.0], [np.nan]]), wheel=np.array([[2.0], [2.0]]))
    assert serket("infer", "position.yaml", "--data", "d.npz", "--out", "b.npz")[0] == 0
    beliefs = arrays(tmp_path / "b.npz")
    np.testing.assert_allclose(beliefs["x.mean"], [[1 / 1.5, 2 / 1.1], [0, 2 / 1.1]], rtol=1e-12)
    np.testing.assert_allclose(beliefs["x.cov"][0], np.diag([0.5 / 1.5, 0.1 / 1.1]), rtol=1e-12)
    assert beliefs["exact"] and list(beliefs["present"][1]) == [False, True]


def test_what_can_be_looked_at(serket, tmp_path):
    (tmp_path / "rain.yaml").write_text(RAIN)
    report = json.loads(serket("check", "rain.yaml", "--json")[1])
    assert set(report) == {"prior_owners", "tree", "exact", "cost", "warnings"} and report["tree"] and report["exact"]
    assert "lawn.child" in serket("check", "rain.yaml")[1]
    assert serket("draw", "rain.yaml")[1].startswith("flowchart")
    assert serket("draw", "rain.yaml", "--out", "rain.png")[0] == 0 and (tmp_path / "rain.png").stat().st_size > 1000
    listed = json.loads(serket("modules", "--json")[1])
    assert {"gmm", "linear_gaussian", "table", "vae"} <= set(listed["module"])
    assert {"linear_gaussian", "product"} <= set(listed["composer"])
    schema = json.loads(serket("schema")[1])
    assert "$defs" in schema and "variables" in schema["properties"]


def test_a_plugin_registers_a_type(serket, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import serket, torch\n"
        "@serket.register('coin')\n"
        "class Coin:\n"
        "    '''p(face | z): a coin that shows its side with probability sure.'''\n"
        "    ports = {'side': serket.Port(serket.Role.PARENT, serket.Family.CATEGORICAL, 2)}\n"
        "    exact = True\n"
        "    def __init__(self, sure: float = 0.9): self.sure = sure\n"
        "    def infer(self, inbox, evidence, *, generator, ports=None):\n"
        "        like = torch.tensor([[self.sure, 1 - self.sure], [1 - self.sure, self.sure]]).log().to(inbox['side'].dtype)\n"
        "        face = torch.zeros(len(evidence)).long() if evidence.values is None else evidence.values[:, 0].long()\n"
        "        message = serket.Categorical(like[:, face].T).mask(evidence.present)\n"
        "        evidence = (inbox['side'] * message).log_z()\n"
        "        asked = self.ports if ports is None else ports\n"
        "        return serket.Reply({p: message for p in asked}, log_evidence=evidence, bound='exact')\n"
    )
    (tmp_path / "coin.yaml").write_text(
        "serket: 1\nvariables:\n  side: {family: categorical, size: 2}\n"
        "modules:\n  coin: {type: coin, data: face, ports: {side: side}, sure: 0.7}\n"
    )
    np.savez(tmp_path / "d.npz", face=np.array([0, 1]))
    assert serket("check", "coin.yaml")[0] == 2
    status, _, err = serket("infer", "coin.yaml", "--data", "d.npz", "--plugin", "mine.py", "--out", "b.npz")
    assert status == 0, err
    np.testing.assert_allclose(arrays(tmp_path / "b.npz")["side.probs"], [[0.7, 0.3], [0.3, 0.7]], rtol=1e-5)
