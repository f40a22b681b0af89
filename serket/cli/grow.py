"""A run that grows and changes: add a sense, swap a model, refit one; all else stays to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from serket.cli.shared import (
    DataOpt,
    DeviceOpt,
    JsonOpt,
    OutOpt,
    PluginOpt,
    QuietOpt,
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
FractionOpt = Annotated[
    float | None, typer.Option("--test-fraction", help="Rows to test on, if the data have no split; else the run's.")
]
StrictOpt = Annotated[
    bool | None, typer.Option("--strict/--no-strict", help="Refuse NaN and Inf that no mask explains; else the run's.")
]
ModuleOpt = Annotated[str, typer.Option("--module", help="The module, by its name in the graph.")]


def add(
    run: WrittenRun,
    fragment: Annotated[str, typer.Argument(help="A graph file with the new module.", metavar="FRAGMENT")],
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = None,
    strict: StrictOpt = None,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Add a sense to a run: fit the new module and what touches it, and nothing else."""
    plug(plugin)
    from serket.growth import planned_add

    options = {"test_fraction": test_fraction, "strict": strict}
    _carry_out(run, lambda model: planned_add(model, fragment), data, out, options, device, quiet, as_json)


def swap(
    run: WrittenRun,
    module: ModuleOpt,
    fragment: Annotated[str, typer.Option("--with", help="A graph file with the module that takes its place.")],
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = None,
    strict: StrictOpt = None,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Put another model in a module's place: fit it and what touches it, and nothing else."""
    plug(plugin)
    from serket.growth import planned_swap

    options = {"test_fraction": test_fraction, "strict": strict}
    _carry_out(
        run, lambda model: planned_swap(model, module, fragment), data, out, options, device, quiet, as_json, module
    )


def refit(
    run: WrittenRun,
    module: ModuleOpt,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what it learned; else it learns on.")] = False,
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = None,
    strict: StrictOpt = None,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Train one module of a run again, from where it stands, and what touches it, and nothing else."""
    plug(plugin)
    from serket.growth import planned_refit

    options = {"test_fraction": test_fraction, "strict": strict}
    without = module if fresh else None

    def planned(model: Model) -> Change:
        return planned_refit(model, module, fresh=fresh)

    _carry_out(run, planned, data, out, options, device, quiet, as_json, without)


def _carry_out(
    run: str,
    planned: Callable[[Model], Change],
    data: Path | None,
    out: Path | None,
    told_options: dict[str, Any],
    device: str,
    quiet: bool,
    as_json: bool,
    without: str | None = None,
) -> None:
    """Do it, measure the whole, and write it in one step; until then the run stands as it was."""
    from serket import store
    from serket.evaluate import evaluate
    from serket.growth import carried_out
    from serket.inputs import check_device, dataset_for
    from serket.model import load
    from serket.report.figures import draw_figures
    from serket.store.manifest import find

    check_device(device)
    find(run)  # before a lock makes a folder beside what is no run
    where = store.claim(out or run)
    options = {key: value for key, value in told_options.items() if value is not None}
    with store.Partial(where) as kept, Bars(err, quiet=quiet or as_json) as bars:
        try:
            # Read under the lock: what another change writes before it is taken would be lost.
            model = load(run, device=device, without=without)
            changed = carried_out(model, planned(model), str(data) if data else None, report=bars.step, **options)
            if "source" not in changed.data:
                changed.data["source"] = source_of(changed.graph.data, data, changed.graph.folder)
            source = changed.data["source"]
            dataset = dataset_for(changed.graph, source, missing_ok=True, **{"seed": changed.seed, **changed.split})
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
