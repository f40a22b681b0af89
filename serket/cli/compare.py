"""One composer after another over the same modules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serket.cli.shared import (
    DataOpt,
    FractionOpt,
    GraphArg,
    PluginOpt,
    QuietOpt,
    StrictOpt,
    err,
    near,
    plug,
    save,
    show_text,
)
from serket.errors import SerketError
from serket.report.progress import Bars

__all__ = ["compare"]


def compare(
    graph: GraphArg,
    composers: Annotated[
        str, typer.Option("--composers", help="Names of types: a,b,c; with options: joint:objective=mopoe.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    splits: Annotated[int, typer.Option(min=1, help="How many; the first is the data's own.")] = 5,
    pairs: Annotated[str, typer.Option(help="Complete training rows: 50,200,all; the others are shuffled.")] = "all",
    missing: Annotated[float | None, typer.Option(help="A case more: so large a share of views missing.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels a class on the first view, to read from others: 10.")
    ] = None,
    data: DataOpt = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; else runs/GRAPH-compare.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="A file for the table as JSON; - prints it.")] = None,
    test_fraction: FractionOpt = 0.2,
    strict: StrictOpt = False,
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
) -> None:
    """Compare composers over the same frozen modules, over splits and seeds, and write one table with pictures."""
    plug(plugin)
    from serket.comparison import compare as run
    from serket.comparison.save import claim
    from serket.comparison.save import save as save_table
    from serket.graph import load_graph
    from serket.store import Partial
    from serket.store.files import rendered

    described = load_graph(graph)
    where = claim(out or Path("runs") / f"{described.name}-compare")
    printed = str(json) == "-"
    with Partial(where) as kept, Bars(err, quiet=quiet or printed) as bars:
        try:
            table = run(
                described,
                data and str(data),
                composers,
                seeds=seeds,
                splits=splits,
                pairs=pairs.split(","),
                missing=missing,
                labels=_numbers(labels),
                strict=strict,
                test_fraction=test_fraction,
                report=lambda *step: bars.step("compare", *step),
                kept=kept,
            )
        except SerketError:
            kept.unlock()
            raise
        written = save_table(table, where)
        kept.remove()
    text = rendered(table.as_dict()).decode()
    if printed:
        print(text.rstrip())
    elif json is not None:
        save(json, text)
    if not quiet and not printed:
        show_text(str(table))
        show_text(f"written to {near(where)}: {', '.join(path.name for path in written)}")
    if not table.served:
        raise SerketError(
            "no composer serves any case",
            where=table.graph,
            found=f"{table.composers[0]} cannot: {table.cells[0].cannot}",
            fix="take other composers, or mend what their rows tell",
        )


def _numbers(text: str | None) -> list[int]:
    """Return the numbers in ``10,100``."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    for part in parts:
        if not part.isdecimal():
            raise SerketError("no such number of labels", expected="whole numbers: 10,100", found=part)
    return [int(part) for part in parts]
