"""A run that grows and changes: add a sense, swap a model, refit one; all else stays to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from serket.cli.shared import (
    DataOpt,
    DeviceOpt,
    FractionOpt,
    JsonOpt,
    OutOpt,
    PluginOpt,
    QuietOpt,
    StrictOpt,
    err,
    near,
    plug,
    show,
    show_json,
    show_text,
    source_of,
    tell,
)
from serket.report.progress import Bars

if TYPE_CHECKING:
    from serket.growth import Change
    from serket.model import Model

WrittenRun = Annotated[str, typer.Argument(help="A run directory; rewritten, unless --out is given.", metavar="RUN")]
ModuleOpt = Annotated[str, typer.Option("--module", help="The module, by its name in the graph.")]


def add(
    run: WrittenRun,
    fragment: Annotated[str, typer.Argument(help="A graph file with the new module.", metavar="FRAGMENT")],
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = 0.2,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Add a sense to a run: fit the new module and what touches it, and nothing else."""
    plug(plugin)
    from serket.growth import planned_add

    model = _opened(run, device)
    change = planned_add(model, fragment)
    _carry_out(model, change, Path(run), data, out, test_fraction, strict, quiet, as_json)


def swap(
    run: WrittenRun,
    module: ModuleOpt,
    fragment: Annotated[str, typer.Option("--with", help="A graph file with the module that takes its place.")],
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = 0.2,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Put another model in a module's place: fit it and what touches it, and nothing else."""
    plug(plugin)
    from serket.growth import planned_swap

    model = _opened(run, device, module)
    _carry_out(
        model, planned_swap(model, module, fragment), Path(run), data, out, test_fraction, strict, quiet, as_json
    )


def refit(
    run: WrittenRun,
    module: ModuleOpt,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what it learned; else it learns on.")] = False,
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = 0.2,
    strict: StrictOpt = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Train one module of a run again, from where it stands, and what touches it, and nothing else."""
    plug(plugin)
    from serket.growth import planned_refit

    model = _opened(run, device, module)
    change = planned_refit(model, module, fresh=fresh)
    _carry_out(model, change, Path(run), data, out, test_fraction, strict, quiet, as_json)


def _opened(run: str, device: str, replaceable: str | None = None) -> Model:
    from serket.inputs import check_device
    from serket.model import load

    return load(run, device=check_device(device), replaceable=replaceable)


def _carry_out(
    model: Model,
    change: Change,
    run: Path,
    data: Path | None,
    out: Path | None,
    test_fraction: float,
    strict: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Do it, measure the whole, and write it in one step; until then the run stands as it was."""
    from serket import store
    from serket.evaluate import evaluate
    from serket.growth import carried_out
    from serket.inputs import dataset_for
    from serket.report.figures import draw_figures

    where = store.claim(out or run)
    options: dict[str, Any] = {"strict": strict, "test_fraction": test_fraction}
    with store.Partial(where) as kept, Bars(err, quiet=quiet or as_json) as bars:
        try:
            changed = carried_out(model, change, str(data) if data else None, report=bars.step, **options)
            if "source" not in changed.data:
                changed.data["source"] = source_of(change.graph.data, data, change.graph.folder)
            source = changed.data["source"]
            dataset = dataset_for(changed.graph, source, seed=changed.seed, missing_ok=True, **options)
            tell(dataset, quiet)
            metrics = (
                evaluate(changed, dataset, lambda *step: bars.step("evaluate", *step)) if len(dataset.test) else {}
            )
            told = changed.changes[-1]
            changed.save(
                where,
                overwrite=True,
                metrics=metrics,
                events=[*store.events_of(run), {"kind": "change", **told}],
                figures=lambda folder: draw_figures(changed, dataset, metrics, folder),
            )
        finally:
            kept.unlock()
    if as_json:
        show_json(told)
        return
    show(metrics, as_json, quiet)
    if not quiet:
        _show_change(told)
        show_text(f"written to {near(where)}")


def _show_change(told: dict[str, Any]) -> None:
    """Print which states changed and which did not, under which hashes."""
    table = Table("module", "state", "SHA-256", "before", box=None, pad_edge=False, header_style="bold")
    for name, row in told["states"].items():
        same = row["before"] == row["after"]
        table.add_row(name, row["how"], row["after"][:12], "the same" if same else (row["before"] or "none")[:12])
    show_text(table, "")
