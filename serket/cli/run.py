"""From a graph to a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serket.cli.shared import (
    DataOpt,
    DeviceOpt,
    FractionOpt,
    GraphArg,
    JsonOpt,
    OutOpt,
    PluginOpt,
    QuietOpt,
    SeedOpt,
    StrictOpt,
    err,
    near,
    plug,
    show,
    show_text,
    source_of,
    tell,
    tell_uncalibrated,
)
from serket.report.progress import Bars

if TYPE_CHECKING:
    from serket.model import Model


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
    plug(plugin)
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
    older = " in place of an older run" if where.is_dir() and any(where.iterdir()) else ""
    seed = described.seed if seed is None else seed
    dataset = dataset_for(described, data and str(data), strict=strict, test_fraction=test_fraction, seed=seed)
    tell(dataset, quiet)
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
        tell_uncalibrated(model, quiet)
        model.data["source"] = source_of(described.data, data, described.folder)
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
    show(metrics, as_json, quiet)
    if not quiet and not as_json:
        show_text(f"written to {near(where)}{older}: metrics.json, figures/, modules/")
