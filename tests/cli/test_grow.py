"""The commands that change a run: what they rewrite, what they leave, what they refuse, and what they say."""

import hashlib
import json

import numpy as np
import pytest

from serket import load, store
from tests.cli.test_mistakes import GOLDEN
from tests.growth.worlds import OTHER, SENSE, graph, senses


def tree(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


@pytest.fixture
def run(serket, tmp_path):
    np.savez(tmp_path / "things.npz", **senses())
    for name, text in {"things": graph(), "sense": SENSE, "other": OTHER}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    status, _, err = serket("run", "things.yaml", "--out", "r", "--quiet")
    assert status == 0, err
    return tmp_path / "r"


def test_add_swap_and_refit_rewrite_what_they_touch(serket, run):
    before = tree(run)
    status, out, err = serket("add", "r", "sense.yaml")
    assert status == 0, err
    assert "c         fitted" in out and "views[2] fitted" in out and out.count("untouched") == 3
    assert max(map(len, out.splitlines())) <= 80
    after = tree(run)
    states = {name for name in after if name.startswith("modules/")}
    assert {n for n in states if before.get(n) != after[n]} == {"modules/c.safetensors", "modules/body.safetensors"}
    assert not list(run.parent.glob("*.partial")) and not list(run.parent.glob(".r.*"))
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"a", "b", "c", "a+b+c"} <= metrics["subsets"].keys()
    kinds = [event["kind"] for event in store.events_of(run)]
    assert kinds[0] == "start" and kinds[-1] == "change"

    status, out, err = serket("swap", "r", "--module", "b", "--with", "other.yaml", "--out", "s", "--json")
    assert status == 0, err
    assert json.loads(out)["states"]["a"]["how"] == "untouched"
    assert tree(run) == after, "with --out the run stays as it was"
    swapped = tree(run.parent / "s")
    states = [name for name in swapped if name.startswith("modules/")]
    assert {n for n in states if swapped[n] != after[n]} == {"modules/b.safetensors", "modules/body.safetensors"}
    status, _, err = serket("refit", "s", "--module", "a", "--data", "things.npz", "--quiet")
    assert status == 0, err
    assert [one["what"] for one in load("s").changes] == ["add", "swap", "refit"]
    again = tree(run.parent / "s")
    assert {n for n in states if swapped[n] != again[n]} == {"modules/a.safetensors", "modules/body.safetensors"}
    assert serket("infer", "s", "--observe", "a,c", "--quiet")[0] == 0


@pytest.fixture
def small(tmp_path):
    """A run, quickly fitted to one half of its rows."""
    import serket

    np.savez(tmp_path / "d.npz", a=np.random.default_rng(0).normal(size=(40, 2)))
    (tmp_path / "g.yaml").write_text(
        "serket: 1\ndata: d.npz\nvariables: {k: {family: categorical, size: 2}}\n"
        "modules: {a: {type: gmm, data: a, ports: {component: k}, fit: {sweeps: 16, restarts: 1}}}\n"
    )
    model = serket.fit(tmp_path / "g.yaml", tmp_path / "d.npz", test_fraction=0.5)
    model.data["source"] = str(tmp_path / "d.npz")
    return model.save(tmp_path / "r")


def test_a_change_learns_from_no_row_that_the_run_was_tested_on(serket, small):
    assert serket("refit", "r", "--module", "a", "--quiet")[0] == 0
    model = load("r")
    assert model.changes[-1]["data"] == {key: model.data[key] for key in ("name", "sha256")}  # the split is hashed, too
    assert serket("refit", "r", "--module", "a", "--test-fraction", "0.2", "--quiet")[0] == 0
    assert load("r").changes[-1]["data"]["sha256"] != model.data["sha256"] and load("r").split["test_fraction"] == 0.2


def test_two_changes_at_once_are_not_one_of_them_lost(serket, small, monkeypatch):
    import serket.growth as growth

    planned, inner = growth.planned_refit, []

    def meanwhile(*args, **options):
        monkeypatch.setattr(growth, "planned_refit", planned)
        inner.append(serket("refit", "r", "--module", "a", "--quiet"))
        return planned(*args, **options)

    monkeypatch.setattr(growth, "planned_refit", meanwhile)
    assert serket("refit", "r", "--module", "a", "--quiet")[0] == 0
    ((status, _, err),) = inner
    assert status == 2 and "another run is writing here" in err
    assert len(load("r").changes) == 1 and not list(small.parent.glob("*.partial"))


def test_what_goes_is_not_read(serket, small, monkeypatch):
    import serket.model as model

    asked = []
    monkeypatch.setattr(
        model, "load", lambda *args, **options: asked.append(options["without"]) or load(*args, **options)
    )
    for command in ("swap --with g.yaml", "refit", "refit --fresh"):
        status, out, err = serket(*command.split()[:1], "r", "--module", "a", *command.split()[1:])
        assert status == 0, err
        assert ("not read" in out) == (asked[-1] is not None)
    assert asked == ["a", None, "a"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_add_leaves_the_run_as_it_was(serket, run, monkeypatch, stop):
    before = tree(run)

    def stopped(*_, **__):
        raise stop("no space left")

    monkeypatch.setattr("serket.store.run._swap", stopped)  # all is fitted and written, but not in its place
    status, _, _ = serket("add", "r", "sense.yaml", "--quiet")
    assert status in (2, 130) and tree(run) == before
    assert {p.name for p in run.parent.iterdir()} == {"r", "things.npz", "things.yaml", "sense.yaml", "other.yaml"}
    monkeypatch.undo()


MISTAKES = {
    "swap_unknown_module": ("swap r --module bb --with other.yaml", ()),
    "swap_other_module": ("swap r --module a --with other.yaml", ()),
    "refit_unknown_module": ("refit r --module vision", ()),
    "add_no_run": ("add nowhere sense.yaml", ()),
    "add_no_fragment": ("add r sens.yaml", ()),
    "add_renames": ("add r sense.yaml", ("views: [z_a, z_b, z_c]", "views: [z_c, z_b, z_a]")),
    "add_another_size": ("add r sense.yaml", ("variables:", "variables:\n  z_a: {family: gaussian, size: 4}")),
    "add_no_such_array": ("add r sense.yaml", ("data: c", "data: sound")),
    "add_nothing_new": ("add r things.yaml", ()),
    "add_unknown_section": ("add r sense.yaml", ("modules:", "moduls:")),
    "add_unpaired": ("add r sense.yaml --data unpaired.npz", ()),
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    import serket
    from serket.graph import load_graph

    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "things.npz", **senses())
    (folder / "things.yaml").write_text(graph())
    model = serket.fit(load_graph(folder / "things.yaml"), folder / "things.npz", workers=1)
    model.data["source"] = "things.npz"
    return model


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(serket, tmp_path, fitted, name):
    command, edit = MISTAKES[name]
    text = SENSE.replace(*edit) if edit else SENSE
    assert not edit or text != SENSE
    data = senses()
    np.savez(tmp_path / "things.npz", **data)
    rows = np.arange(len(data["label"]))
    np.savez(
        tmp_path / "unpaired.npz", **{**data, "a_mask": rows % 2 > 0, "b_mask": rows % 2 > 0, "c_mask": rows % 2 < 1}
    )
    for file, content in {"sense": text, "things": graph(), "other": OTHER}.items():
        (tmp_path / f"{file}.yaml").write_text(content)
    fitted.save(tmp_path / "r")
    before = tree(tmp_path / "r")
    status, out, err = serket(*command.split(), "--quiet")
    assert status == 2 and "Traceback" not in err and not out, err
    assert tree(tmp_path / "r") == before and not list(tmp_path.glob("*.partial"))
    golden = GOLDEN / f"{name}.txt"
    if not golden.exists():
        golden.write_text(err)
        pytest.fail(f"wrote {golden}: read it, then run again")
    assert err == golden.read_text()


@pytest.mark.parametrize("command", ["add", "swap", "refit"])
def test_help_is_as_read(serket, command):
    status, out, _ = serket(command, "--help")
    out = out.partition("Usage:")[2].partition("\n")[2]  # which names the program that runs the tests
    golden = GOLDEN / f"help_{command}.txt"
    assert status == 0 and max(map(len, out.splitlines())) <= 80
    if not golden.exists():
        golden.write_text(out)
        pytest.fail(f"wrote {golden}: read it, then run again")
    assert out == golden.read_text()
