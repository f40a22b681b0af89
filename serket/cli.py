"""The command line: one thin command per library call."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from serket.errors import DataError
from serket.report.progress import Bars
from serket.report.status import status

if TYPE_CHECKING:
    from serket.data import Dataset
    from serket.model import Model

__all__ = ["app", "main"]

app = typer.Typer(
    name="serket",
    help="Connect models trained apart into one probabilistic model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
err = Console(stderr=True, highlight=False)

GraphArg = Annotated[str, typer.Argument(help="A graph file, or the name of one that ships: digits.", metavar="GRAPH")]
RunArg = Annotated[str, typer.Argument(help="A run directory, or a graph in which nothing is trained.", metavar="RUN")]
DataOpt = Annotated[
    Path | None, typer.Option("--data", help="An .npz file, or an embedded name; else the graph's own.")
]
OutOpt = Annotated[Path | None, typer.Option("--out", help="Where to write.")]
SeedOpt = Annotated[int | None, typer.Option("--seed", min=0, help="Of all randomness; else the graph's own.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="cpu, cuda or another torch device.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
StrictOpt = Annotated[bool, typer.Option("--strict", help="Refuse NaN and Inf that no mask explains.")]
FractionOpt = Annotated[float, typer.Option("--test-fraction", help="Rows to test on, if the data have no split.")]
PluginOpt = Annotated[list[str] | None, typer.Option("--plugin", help="A Python file or module that registers types.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"serket {version('serket-perception')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Connect models trained apart into one probabilistic model."""


@app.command()
def run(
    graph: GraphArg,
    data: DataOpt = None,
    out: OutOpt = None,
    seed: SeedOpt = None,
    rounds: Annotated[int | None, typer.Option(min=0, help="Of mutual learning; else the graph's own.")] = None,
    test_fraction: FractionOpt = 0.2,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Train every module alone, compose them, let them learn from each other, measure, and write a run directory."""
    _plug(plugin)
    from serket import store
    from serket.evaluate import concepts, evaluate
    from serket.fitting import fit
    from serket.graph import load_graph
    from serket.inputs import check_device, dataset_for
    from serket.report.figures import draw_figures

    check_device(device)
    described = load_graph(graph)
    described = described if rounds is None else replace(described, rounds=rounds)
    where = store.claim(out or Path("runs") / described.name)
    seed = described.seed if seed is None else seed
    dataset = dataset_for(described, data and str(data), strict=strict, test_fraction=test_fraction, seed=seed)
    _tell(dataset, quiet)
    with store.Partial(where) as kept, Bars(err, quiet=quiet or as_json) as bars:
        events = store.Events(kept.directory / "events.jsonl")
        events.append("start", graph=described.name, data=dataset.name, seed=seed)

        def report(name: str, step: int, steps: int, text: str) -> None:
            events.append("step", module=name, step=step, steps=steps, text=text)
            bars.step(name, step, steps, text)

        before: dict[str, float] = {}

        def composed(model: Model) -> None:
            before.update(concepts(model, dataset) if described.rounds else {})

        model = fit(described, dataset, seed=seed, device=device, report=report, kept=kept, composed=composed)
        metrics = evaluate(model, dataset, lambda *step: bars.step("evaluate", *step)) if len(dataset.test) else {}
        for subset, value in before.items():
            metrics["subsets"][subset]["before_rounds"] = value
        model.data["source"] = _source(described.data, data, described.folder)
        for tried in model.rounds:
            events.append("round", **tried.as_dict())
        events.append("done", seconds=model.seconds)
        bars.step("figures", 0, 1, "")
        model.save(
            where,
            overwrite=True,
            metrics=metrics,
            events=events.path,
            figures=lambda folder: draw_figures(model, dataset, metrics, folder),
        )
        bars.step("figures", 1, 1, "")
        kept.remove()
    _show(metrics, as_json, quiet)
    if not quiet and not as_json:
        _print(f"written to {_near(where)}: metrics.json, figures/, modules/")


@app.command()
def check(graph: GraphArg, as_json: JsonOpt = False, plugin: PluginOpt = None) -> None:
    """Say who owns each prior, what is exact, what it costs, and what to mind; exit with 2 if the graph is wrong."""
    _plug(plugin)
    from serket.engine import schedule
    from serket.graph import check as check_graph
    from serket.graph import load_graph

    described = load_graph(graph)
    report = check_graph(described)
    if as_json:
        _json(report.as_dict())
        return
    table = Table("variable", "family", "prior owner", box=None, pad_edge=False, header_style="bold")
    for name, owner in report.prior_owners.items():
        variable = described.variables[name]
        table.add_row(name, f"{variable.family.value}({variable.size})", str(owner))
    _print(table, "")
    _print(f"tree: {'yes' if report.tree else 'no'}   exact: {'yes' if report.exact else 'no'}")
    costly = {name: cost for name, cost in report.cost.items() if cost != "linear"}
    _print("cost: " + (", ".join(f"{name} {cost}" for name, cost in costly.items()) or "linear in rows and edges"))
    _print("schedule:", *(f"  {line}" for line in str(schedule(described)).splitlines()), sep="\n")
    for warning in report.warnings:
        _print(f"note: {warning}")


@app.command()
def draw(graph: GraphArg, out: OutOpt = None, plugin: PluginOpt = None) -> None:
    """Print the graph as Mermaid text, or draw it into a picture: --out graph.png."""
    _plug(plugin)
    from serket.graph import load_graph, mermaid, picture

    described = load_graph(graph)
    if out is None:
        print(mermaid(described))
    elif out.suffix in (".mmd", ".md", ".txt"):
        _save(out, mermaid(described))
    elif out.suffix in (".png", ".svg", ".pdf"):
        picture(described, out)
    else:
        raise DataError("no such picture format", where=str(out), available=[".png", ".svg", ".pdf", ".mmd"])


@app.command()
def infer(
    run: RunArg,
    data: DataOpt = None,
    observe: Annotated[str | None, typer.Option("--observe", help="Data keys to use: a,b; else all there are.")] = None,
    out: OutOpt = None,
    max_iterations: Annotated[int, typer.Option("--max-iterations", min=1, help="Sweeps at most, on loops.")] = 200,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Infer every variable from whatever senses there are; --out writes the beliefs as .npz."""
    _plug(plugin)
    from serket.report.arrays import beliefs_as_arrays, write_arrays
    from serket.report.beliefs import summary, summary_table

    model, dataset = _opened(run, data, device, seed, quiet, strict=strict, missing_ok=True, test_fraction=0)
    result = model.infer(dataset, observe=_keys(observe, dataset), max_iterations=max_iterations)
    if out is not None:
        write_arrays(_npz(out, data), beliefs_as_arrays(result))
    if as_json:
        _json(summary(result))
    elif not quiet:
        _print(summary_table(result))
        _written(out, "beliefs.npz")


@app.command()
def generate(
    run: RunArg,
    to: Annotated[str, typer.Option("--to", help="The data key to imagine.")],
    given: Annotated[
        str | None, typer.Option("--given", help="Data keys to imagine it from: a,b; else all others.")
    ] = None,
    data: DataOpt = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Draws per row.")] = 0,
    out: OutOpt = None,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Imagine one sense from others; --out writes mean, deviation and samples as .npz."""
    _plug(plugin)
    from serket.report.arrays import imagination_as_arrays, write_arrays

    model, dataset = _opened(run, data, device, seed, quiet, strict=strict, missing_ok=True, test_fraction=0)
    imagined = model.generate(to, dataset, observe=_keys(given, dataset), samples=samples)
    arrays = imagination_as_arrays(to, imagined, dataset.row_id)
    if out is not None:
        write_arrays(_npz(out, data), arrays)
    if as_json:
        _json({name: list(array.shape) for name, array in arrays.items()})
    elif not quiet:
        for name, array in arrays.items():
            _print(f"{name}  {' x '.join(map(str, array.shape))}")
        _written(out, "imagined.npz")


@app.command()
def evaluate(
    run: RunArg,
    data: DataOpt = None,
    test_fraction: FractionOpt = 0.2,
    seed: SeedOpt = None,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Measure a run on test rows, for every subset of its senses."""
    _plug(plugin)
    from serket.evaluate import evaluate as measure

    model, dataset = _opened(run, data, device, seed, quiet, strict=strict, test_fraction=test_fraction)
    if not len(dataset.test):
        raise DataError("there are no test rows", where=dataset.name, fix="raise --test-fraction, or store 'test'")
    with Bars(err, quiet=quiet or as_json) as bars:
        metrics = measure(model, dataset, lambda *step: bars.step("evaluate", *step))
    _show(metrics, as_json, quiet)


@app.command()
def modules(as_json: JsonOpt = False, plugin: PluginOpt = None) -> None:
    """List the types a graph can name, with their ports and options."""
    _plug(plugin)
    from serket.report.types import describe

    described = describe()
    if as_json:
        _json(described)
        return
    for kind, types in described.items():
        _print(f"{kind}s:", "")
        for name, about in types.items():
            table = Table(box=None, pad_edge=False, show_header=False)
            table.add_row(name, about["summary"].replace("`", ""), style="bold")
            for part in ("ports", "options", "fit"):
                if about[part]:
                    table.add_row(part, ", ".join(about[part]))
            _print(table, "")


@app.command()
def schema(out: OutOpt = None, plugin: PluginOpt = None) -> None:
    """Print the JSON Schema of graph files, for editors."""
    _plug(plugin)
    from serket.graph import json_schema

    text = json.dumps(json_schema(), indent=2)
    if out is None:
        print(text)
    else:
        _save(out, text + "\n")


def main() -> None:
    """Run the command line; a user's mistake is a text and status 2, an interrupt 130, our own mistake 1."""
    warnings.showwarning = lambda message, *_: err.print(f"warning: {message}", markup=False, soft_wrap=True)
    sys.exit(status(app, err))


def _plug(plugins: list[str] | None) -> None:
    from serket.registry import plug

    for plugin in plugins or []:
        plug(plugin)


def _model(run: str, device: str, seed: int | None) -> Model:
    """Load a run; or build a graph in which nothing needs training."""
    from serket.graph import load_graph, shipped
    from serket.inputs import check_device
    from serket.model import Model, load
    from serket.protocol import Trainable

    path = Path(run)
    if path.is_dir() or (run not in shipped() and not path.is_file()):
        model = load(path, device=check_device(device))
        model.seed = model.seed if seed is None else seed
        return model
    described = load_graph(run)
    built = described.build()
    untrained = [name for name, module in built.items() if isinstance(module, Trainable)]
    if untrained:
        raise DataError(
            f"{', '.join(untrained)} must be trained first",
            where=run,
            fix=f"serket run {run}, then give its directory here",
        )
    return Model(described, built, described.seed if seed is None else seed, check_device(device))


def _opened(
    run: str, data: Path | None, device: str, seed: int | None, quiet: bool, **options: Any
) -> tuple[Model, Dataset]:
    """Load a run and its data, or those told; options as in :func:`serket.data.load`."""
    from serket.inputs import dataset_for

    model = _model(run, device, seed)
    dataset = dataset_for(model.graph, str(data) if data else model.data.get("source"), seed=model.seed, **options)
    _tell(dataset, quiet)
    return model, dataset


def _source(named: str | None, data: Path | None, folder: Path | None) -> str:
    """Return where data can be found again from any folder: an embedded name, or an absolute path."""
    from serket.data import EMBEDDED, GENERATED

    text = str(data) if data else named or ""
    if text in EMBEDDED or text in GENERATED:
        return text
    here = Path(text)
    return str(here.resolve() if here.exists() or folder is None else (folder / here).resolve())


def _keys(text: str | None, dataset: Dataset) -> list[str] | None:
    """Return the keys in ``a,b``; None is all there are."""
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for key in keys:
        if key in dataset.missing:
            raise DataError(f"no array '{key}'", where=dataset.name, available=dataset.arrays)
    return keys


def _npz(out: Path, data: Path | None = None) -> Path:
    """Return where to write, with its ending; not over the data it was made from."""
    if data is not None and out.exists() and data.exists() and out.samefile(data):
        raise DataError("the output would replace the data", where=str(out), fix="choose another --out")
    return out if out.suffix == ".npz" else out.with_name(out.name + ".npz")


def _written(out: Path | None, such_as: str) -> None:
    _print(f"written to {_near(_npz(out))}" if out else f"nothing is written: pass --out {such_as}")


def _save(path: Path, text: str) -> None:
    from serket.store.files import naming

    with naming(path):
        path.write_text(text, encoding="utf-8")


def _near(path: Path) -> str:
    """Return a path relative to here, if it is below."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _tell(dataset: Dataset, quiet: bool) -> None:
    for note in dataset.notes if not quiet else ():
        err.print(f"note: {note}", markup=False, soft_wrap=True)


def _show(metrics: dict[str, Any], as_json: bool, quiet: bool) -> None:
    from serket.report.table import print_metrics
    from serket.store.files import rendered

    if as_json:
        print(rendered(metrics).decode().rstrip())
    elif not quiet:
        print_metrics(metrics)


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print(*parts: Any, **options: Any) -> None:
    Console(highlight=False).print(*parts, markup=False, soft_wrap=all(isinstance(p, str) for p in parts), **options)


if __name__ == "__main__":
    main()
