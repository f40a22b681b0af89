"""A run that grows and changes: add a sense, swap a model, refit one, calibrate; all else stays to the bit."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
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
    from serket.model import Model


class By(StrEnum):
    """What exponents are judged by."""

    senses = "senses"
    labels = "labels"


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
    from serket.growth import carried_out, planned_add

    def grown(model: Model, **given: Any) -> Model:
        return carried_out(model, planned_add(model, fragment), **given)

    _carry_out(run, grown, data, out, {"test_fraction": test_fraction, "strict": strict}, device, quiet, as_json)


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
    from serket.growth import carried_out, planned_swap

    def swapped(model: Model, **given: Any) -> Model:
        return carried_out(model, planned_swap(model, module, fragment), **given)

    options = {"test_fraction": test_fraction, "strict": strict}
    _carry_out(run, swapped, data, out, options, device, quiet, as_json, module)


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
    from serket.growth import carried_out, planned_refit

    def refitted(model: Model, **given: Any) -> Model:
        return carried_out(model, planned_refit(model, module, fresh=fresh), **given)

    options = {"test_fraction": test_fraction, "strict": strict}
    _carry_out(run, refitted, data, out, options, device, quiet, as_json, module if fresh else None)


def calibrate(
    run: WrittenRun,
    by: Annotated[By, typer.Option("--by", help="What exponents are judged by.")] = By.senses,
    data: DataOpt = None,
    out: OutOpt = None,
    test_fraction: FractionOpt = None,
    strict: StrictOpt = None,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Fit what each message counts for, by rows that no module was fitted on; no module changes."""
    plug(plugin)
    from serket.calibration import calibrated

    def anew(model: Model, data: Any, **given: Any) -> Model:
        return calibrated(model, data, by=by.value, **given)

    _carry_out(run, anew, data, out, {"test_fraction": test_fraction, "strict": strict}, device, quiet, as_json)


def _carry_out(
    run: str,
    change: Callable[..., Model],
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
            changed = change(model, data=str(data) if data else None, report=bars.step, **options)
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
    """Print which states changed and which did not, under which hashes; of a calibration, the exponents."""
    if told["what"] == "calibrate":
        table = Table("module", "message or data", "exponent", box=None, pad_edge=False, header_style="bold")
        for name, exponents in told["exponents"].items():
            for what, exponent in exponents.items():
                table.add_row(name, what, f"{exponent:.3g}")
        show_text(table, f"fitted on {told['rows']} rows; all other messages count as they are", "")
        return
    table = Table("module", "state", "SHA-256", "before", box=None, pad_edge=False, header_style="bold")
    for name, row in told["states"].items():
        same = row["before"] == row["after"]
        table.add_row(name, row["how"], row["after"][:12], "the same" if same else (row["before"] or "none")[:12])
    show_text(table, "")
