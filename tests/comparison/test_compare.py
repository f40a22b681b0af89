"""Composers on the same frozen modules: what is chosen on which rows, what is kept, and what is refused."""

import copy
import re
import shutil
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from serket.comparison import code, setting
from serket.comparison.bench import Bench
from serket.comparison.cases import divided
from serket.comparison.measures import _latents, overall
from serket.data import few_pairs, load
from serket.errors import DataError, GraphError, SerketError
from serket.registry import plug
from serket.store import Partial
from tests.comparison.problems import GRAPH, compared, data


def graph(**changes):
    changed = copy.deepcopy(GRAPH)
    changed.update(changes)
    return changed


def test_modules_are_the_same_to_the_bit_under_every_composer(monkeypatch):
    seen, composed = [], Bench.composed

    def watched(self, *args):
        seen.append(composed(self, *args))
        return seen[-1]

    monkeypatch.setattr(Bench, "composed", watched)
    table = compared("linear_gaussian,product,fickle", pairs=[20, "all"])
    assert len(seen) == 2 * (2 + 2 + 3), "of fickle two candidates"
    states = [{name: one.model.modules[name].state() for name in "abc"} for one in seen]
    for state in states[1:]:
        assert all(state[n][key].equal(value) for n, first in states[0].items() for key, value in first.items())
    assert all(cell.values["thawed"] == [] for cell in table.cells)
    assert "concepts" not in seen[0].model.modules, "what stands on the shared latent has no part in it"


@pytest.mark.parametrize("composer", ["linear_gaussian", "product", "relative", "kernel", "fickle:deaf=false"])
def test_the_shared_latent_alone_is_what_the_whole_graph_infers(composer, monkeypatch):
    seen, composed, source = [], Bench.composed, data()
    monkeypatch.setattr(Bench, "composed", lambda self, *args: seen.append(composed(self, *args)) or seen[-1])
    compared(composer, source=source)
    latent = _latents(seen[-1].model, "shared", source)
    for subset in (None, ["b"], ["a", "c"]):
        whole = seen[-1].model.infer(source, observe=subset, rows=source.test)["shared"].mean().double()
        assert np.array_equal(latent(subset, source.test), whole.numpy())


def test_composers_are_chosen_by_all_that_the_table_shows():
    found = {"joint": 0.9, "strict": 0.6, "ari": 0.3, "subsets": {"a": 0.5, "b": 0.7, "a+b": 0.9}}
    assert overall(found, "ab") == pytest.approx((0.9 + 0.6 + 0.3 + 0.5 + 0.7) / 5)
    assert overall(found | {"coherence": 0.6}, "ab") == pytest.approx((0.9 + 0.6 + 0.3 + 0.5 + 0.7 + 0.6) / 6)


def test_a_composer_that_thaws_a_module_is_told_of_and_no_other_hears_it():
    table = compared("joint:thaw=a+:fit.epochs=3,product")
    thawing, after = (cell.values for cell in table.cells)
    assert thawing["thawed"] == ["a"] and after["thawed"] == []
    assert "note: joint:thaw=a+:fit.epochs=3 has changed module a" in str(table)
    alone = compared("product").cells[0].values
    assert alone["right"] == after["right"], "the next composer hears the module as it was"


def test_options_are_chosen_on_validation_rows_and_no_test_label_is_looked_at():
    source = data()
    chosen = compared("fickle,fickle:deaf=true", source=source)
    fickle, deaf = (cell.values for cell in chosen.cells)
    assert fickle["chosen"] == {"deaf": False} and deaf["chosen"] == {}
    assert fickle["validation"] > deaf["validation"] + 0.1 and chosen.best() == "fickle"
    lies = source.label.copy()
    lies[source.test] = 1 - lies[source.test]
    lied = compared("fickle", source=data(label=lies)).cells[0].values
    assert (lied["validation"], lied["chosen"]) == (fickle["validation"], fickle["chosen"])
    assert lied["joint"] == pytest.approx(1 - fickle["joint"])


def test_without_labels_what_views_say_of_each_other_decides():
    source = data()
    bare = load({key: source.arrays[key] for key in "abc"} | {"test": source.test}, list("abc"))
    table = compared("linear_gaussian,fickle:deaf=true", source=bare)
    assert table.best() == "linear_gaussian" and not table.labelled
    assert table.spread("linear_gaussian", "explained").mean > table.spread("fickle:deaf=true", "explained").mean + 0.1
    assert table.spread("linear_gaussian", "joint") is None and "strict" not in str(table)
    with pytest.raises(DataError, match="no labels to teach"):
        compared("product", source=bare, labels=[10])


def test_rows_are_judged_by_a_share_of_the_complete_and_of_the_others():
    source = few_pairs(data(), 20, seed=0)
    learn, judge = divided(source, 0)
    whole = np.stack([*source.masks.values()]).all(0)
    assert sorted([*learn, *judge]) == sorted(source.train)
    assert whole[judge].sum() == 3 and (~whole)[judge].sum() == round(0.15 * 3 * 40)
    assert not np.array_equal(judge, divided(source, 1)[1])


def test_a_probe_of_few_labels_is_taught_so_many_of_a_class_by_the_first_view(monkeypatch):
    taught = []
    scores = setting.by_labels.__globals__["probe_scores"]

    def watched(latents, labels, *rest):
        taught.append((latents, labels))
        return scores(latents, labels, *rest)

    monkeypatch.setitem(setting.by_labels.__globals__, "probe_scores", watched)
    table = compared("linear_gaussian", labels=[3, 500])
    assert [np.bincount(labels).tolist() for _, labels in taught[2:]][0] == [3, 3], "first validation and test rows"
    source = data()
    assert len(taught[3][1]) == len(source.train), "a class gives what it has"
    assert set(table.sections) > {"3 labels a class on a, read from"}
    assert table.spread("linear_gaussian", "labels.3.accuracy.b").mean > 0.6


def test_a_composer_that_cannot_serve_says_why_in_its_row():
    sizes = {**GRAPH["variables"], "z_b": {"family": "gaussian", "size": 3}}
    table = compared("product,linear_gaussian,clusters", graph=graph(variables=sizes))
    assert "product needs views of one size" in table.cannot("product", "all rows")
    assert "shared" in table.cannot("clusters", "all rows") and table.cannot("linear_gaussian", "all rows") is None
    text = str(table)
    assert "product          cannot: composers.body: a product needs views of one size" in text
    assert table.best() == "linear_gaussian"
    assert "cannot" in table.as_dict()["table"]["all rows"]["product"]


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path, monkeypatch):
    pretrained, calls = Bench.pretrained, []
    monkeypatch.setattr(setting, "overall", lambda *args: calls.append("cell") or overall(*args))
    monkeypatch.setattr(
        Bench, "pretrained", lambda self, *args, **more: calls.append("modules") or pretrained(self, *args, **more)
    )

    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    options = {"seeds": 2, "labels": [2]}
    with pytest.raises(KeyboardInterrupt), Partial(tmp_path / "out") as kept:
        compared("product,linear_gaussian", kept=kept, report=stop, **options)
    assert calls == ["modules", "cell", "cell"]
    with Partial(tmp_path / "out") as kept:
        resumed = compared("product,linear_gaussian,fickle:deaf=true", kept=kept, **options)
    assert calls[3:] == ["cell", "modules", "cell", "cell", "cell"], "the modules of seed 0 were kept, too"
    afresh = compared("product,linear_gaussian,fickle:deaf=true", **options)

    def timeless(table):
        return [{k: v for k, v in cell.values.items() if "cpu" not in k} for cell in table.cells]

    assert timeless(resumed) == timeless(afresh)


@pytest.mark.parametrize("folder", [False, True])
def test_modules_are_fitted_once_per_split_and_seed_however_few_the_pairs(tmp_path, monkeypatch, folder):
    """Shuffled rows are whole rows to each module; only views that are gone are gone for it, too."""
    calls, pretrained = [], Bench.pretrained

    def watched(self, rows, seed, **more):
        calls.append((seed, len(rows.train), bool(np.stack([*rows.masks.values()]).all())))
        return pretrained(self, rows, seed, **more)

    monkeypatch.setattr(Bench, "pretrained", watched)
    options = {"seeds": 2, "splits": 2, "pairs": [10, 20, "all"], "missing": 0.5}
    with Partial(tmp_path / "out") if folder else nullcontext() as kept:
        table = compared("linear_gaussian,product", kept=kept, **options)
    rows = len(data().train)
    assert calls == [(seed, rows, whole) for seed in (0, 1, 0, 1) for whole in (True, False)]
    assert len(table.cells) == 2 * 2 * 4 * 2


def test_modules_see_only_what_a_case_leaves_of_the_views(monkeypatch):
    seen, pretrained = [], Bench.pretrained

    def watched(self, rows, *args, **more):
        seen.append(np.stack([*rows.masks.values()])[:, rows.train].mean())
        return pretrained(self, rows, *args, **more)

    monkeypatch.setattr(Bench, "pretrained", watched)
    table = compared("linear_gaussian", pairs=["all"], missing=0.5)
    assert seen[0] == 1 and 0.4 < seen[1] < 0.7
    assert table.cases == ("all rows", "0.5 of the views missing")


@pytest.mark.parametrize("file", ["composer/joint/objectives.py", "modules/vae.py", "modules/frozen/reading.py"])
def test_what_other_code_has_fitted_is_fitted_again(tmp_path, monkeypatch, file):
    house = tmp_path / "serket"
    shutil.copytree(code.HOUSE, house, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "HOUSE", house)
    calls = []
    monkeypatch.setattr(Bench, "pretrained", lambda self, *args, **more: calls.append("modules") or {})
    monkeypatch.setattr(setting.Setting, "_measured", lambda self, *args: calls.append("cell") or dict(self.states))

    def made():
        code._house.cache_clear()
        calls.clear()
        with Partial(tmp_path / "out") as kept:
            compared("joint:objective=mopoe,product", kept=kept)
        return calls

    assert made() == ["cell", "modules", "cell"]
    assert made() == []
    with (house / file).open("a") as source:
        source.write("# changed\n")
    assert made() == ["cell", "modules", "cell"]
    monkeypatch.undo()
    code._house.cache_clear()


def test_the_file_of_a_type_from_elsewhere_is_part_of_its_code(tmp_path):
    plugin = tmp_path / "elsewhere.py"
    plugin.write_text("class Elsewhere: pass\n")
    plug(str(plugin))
    kind = sys.modules["elsewhere"].Elsewhere
    first = code.code_of([kind])
    assert code.code_of([kind]) == first != code.code_of([])
    plugin.write_text(plugin.read_text() + "# changed\n")
    assert code.code_of([kind]) != first


@pytest.mark.parametrize("pairs", [0, 1])
def test_with_hardly_a_pair_a_composer_serves_or_says_why(pairs):
    table = compared("linear_gaussian,product", pairs=[pairs])
    case = f"{pairs} pairs"
    assert table.cases == (case,) and table.spread("product", "strict", case).n == 1
    assert table.cannot("linear_gaussian", case) or table.spread("linear_gaussian", "strict", case).n == 1


@pytest.mark.parametrize(
    ("composers", "changes", "options", "told"),
    [
        ("kernle,product", {}, {}, "available: .*linear_gaussian.*product"),
        ("product:robust", {}, {}, "option=value, after a colon"),
        (",", {}, {}, "no composer to compare"),
        ("product", {"composers": {}, "variables": {k: v for k, v in GRAPH["variables"].items() if k == "z_a"},
                     "modules": {"a": GRAPH["modules"]["a"]}}, {}, "has no composer to put another in the place of"),
        ("product", {"composers": {"body": {"type": "linear_gaussian",
                                            "ports": {"shared": "shared", "views": ["z_a"]}, "private": 1}},
                     "variables": {k: v for k, v in GRAPH["variables"].items() if k in ("z_a", "shared", "kind")},
                     "modules": {k: GRAPH["modules"][k] for k in ("a", "concepts")}}, {}, "'body' has one view"),
        ("product", {"modules": {k: GRAPH["modules"][k] for k in ("a", "b", "concepts")}}, {}, "reads data is bound to"),
        ("product", {}, {"seeds": 0}, "no such number of seeds"),
        ("product", {}, {"labels": [0]}, "no such number of labels"),
        ("product", {}, {"pairs": ["some"]}, "whole numbers, or all"),
        ("product", {}, {"pairs": [999]}, "0 to 60"),
    ],
)  # fmt: skip
def test_mistakes_are_told(composers, changes, options, told):
    with pytest.raises(SerketError) as caught:
        compared(composers, graph=graph(**changes), **options)
    assert re.search(told, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("product:truts=0.5", "available: .*trust.*did you mean 'trust'"),
        ("joint:objective=mwae", "expected: .*'mvae', 'mmvae', 'mopoe'"),
        ("joint:fit.epoch=3", "available: epochs, .*did you mean 'epochs'"),
        ("coordinated:criterion=foo", "expected: 'distance' or 'cross_generation'"),
        ("workspace:losses=1", "losses"),
        ("joint:thaw=q+", "'q' cannot be thawed.*available: a, b, c"),
        ("product:trust=0.5+1", "trust does not fit the views"),
    ],
)
def test_an_option_at_fault_is_told_before_anything_is_trained(monkeypatch, asked, told):
    monkeypatch.setattr(Bench, "pretrained", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SerketError) as caught:
        compared(f"linear_gaussian,{asked}")
    text = str(caught.value)
    assert text.startswith(f"--composers '{asked}' at graph.composers.body: ") and re.search(told, text, re.DOTALL), (
        text
    )


def test_an_option_the_graph_has_for_its_own_composer_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(Bench, "pretrained", lambda *_, **__: pytest.fail("trained"))
    body = {"type": "workspace", "ports": GRAPH["composers"]["body"]["ports"], "losses": {"translation": 0}}
    with pytest.raises(GraphError, match="no loss to learn from") as caught:
        compared("linear_gaussian,workspace", graph=graph(composers={"body": body}))
    assert "contrastive" in str(caught.value)
    monkeypatch.undo()
    assert compared("linear_gaussian", graph=graph(composers={"body": body})).best() == "linear_gaussian"


def test_the_reasons_stand_in_the_table_if_no_composer_serves():
    sizes = {**GRAPH["variables"], "z_b": {"family": "gaussian", "size": 3}}
    text = str(compared("product,clusters", graph=graph(variables=sizes), pairs=[20, "all"]))
    assert text.count("product   cannot: composers.body: a product needs views of one size") == 2
    assert text.count("clusters  cannot: ") == 2 and "\n20 pairs: measures\n" in text
    assert "expected: size 2, as shared; found: size 3; fix: " in " ".join(text.split())
    one_class = compared("product,linear_gaussian", source=data(label=np.zeros(90, int)))
    assert str(one_class).count("one class only") == 2
