"""What there is, and what a graph says, with nothing trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from serket.cli.shared import GraphArg, JsonOpt, OutOpt, PluginOpt, plug, save, show_json, show_text
from serket.errors import DataError


def check(graph: GraphArg, as_json: JsonOpt = False, plugin: PluginOpt = None) -> None:
    """Say who owns each prior, what is exact, what it costs, and what to mind; exit with 2 if the graph is wrong."""
    plug(plugin)
    from serket.engine import schedule
    from serket.graph import check as check_graph
    from serket.graph import load_graph

    described = load_graph(_file_of(graph))
    report = check_graph(described)
    if as_json:
        show_json(report.as_dict())
        return
    table = Table("variable", "family", "prior owner", box=None, pad_edge=False, header_style="bold")
    for name, owner in report.prior_owners.items():
        variable = described.variables[name]
        table.add_row(name, f"{variable.family.value}({variable.size})", str(owner))
    show_text(table, "")
    show_text(f"tree: {'yes' if report.tree else 'no'}   exact: {'yes' if report.exact else 'no'}")
    costly = {name: cost for name, cost in report.cost.items() if cost != "linear"}
    show_text("cost: " + (", ".join(f"{name} {cost}" for name, cost in costly.items()) or "linear in rows and edges"))
    show_text("schedule:", *(f"  {line}" for line in str(schedule(described)).splitlines()), sep="\n")
    for warning in report.warnings:
        show_text(f"note: {warning}")


def draw(graph: GraphArg, out: OutOpt = None, plugin: PluginOpt = None) -> None:
    """Print the graph as Mermaid text, or draw it into a picture: --out graph.png."""
    plug(plugin)
    from serket.graph import load_graph, mermaid, picture

    described = load_graph(_file_of(graph))
    if out is None:
        print(mermaid(described))
    elif out.suffix in (".mmd", ".md", ".txt"):
        save(out, mermaid(described))
    elif out.suffix in (".png", ".svg", ".pdf"):
        picture(described, out)
    else:
        raise DataError("no such picture format", where=str(out), available=[".png", ".svg", ".pdf", ".mmd"])


def modules(as_json: JsonOpt = False, plugin: PluginOpt = None) -> None:
    """List the types a graph can name, with their ports and options."""
    plug(plugin)
    from serket.report.types import describe

    described = describe()
    if as_json:
        show_json(described)
        return
    for kind, types in described.items():
        show_text(f"{kind}s:", "")
        for name, about in types.items():
            table = Table(box=None, pad_edge=False, show_header=False)
            table.add_row(name, about["summary"].replace("`", ""), style="bold")
            for part in ("ports", "options", "fit"):
                if about[part]:
                    table.add_row(part, ", ".join(about[part]))
            show_text(table, "")


def new_module(
    name: Annotated[str, typer.Argument(help="The type's name in graphs, such as thermometer.", metavar="NAME")],
    folder: Annotated[Path | None, typer.Option("--folder", help="Where to write; else ./serket-NAME.")] = None,
) -> None:
    """Write a module to start from: a class that works, its contract test, an example, a page and a package."""
    from serket.scaffold import new_module as write

    files = write(name, folder)
    show_text(*map(str, files), sep="\n")
    show_text(f"next: cd {files[0].parent} && python -m pytest")


def schema(out: OutOpt = None, plugin: PluginOpt = None) -> None:
    """Print the JSON Schema of graph files, for editors."""
    plug(plugin)
    from serket.graph import json_schema

    text = json.dumps(json_schema(), indent=2)
    if out is None:
        print(text)
    else:
        save(out, text + "\n")


def _file_of(graph: str) -> str:
    """Return the graph file of a run directory; anything else as it is."""
    stored = Path(graph) / "graph.yaml"
    return str(stored) if stored.is_file() else graph
