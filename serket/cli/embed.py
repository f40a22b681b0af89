"""What frozen encoders make of the data, ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from serket.cli.shared import DataOpt, DeviceOpt, JsonOpt, PluginOpt, QuietOpt, err, plug, show_json, show_text, tell
from serket.errors import GraphError, SerketError, listed
from serket.report.progress import Bars


def embed(
    graph: Annotated[
        str | None, typer.Argument(help="A graph file, one that ships, or a run.", metavar="GRAPH")
    ] = None,
    data: DataOpt = None,
    clear: Annotated[bool, typer.Option("--clear", help="First remove all that is kept, of every graph.")] = False,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Embed the rows that frozen encoders have not seen yet, and keep the embeddings; goes on after Ctrl-C."""
    plug(plugin)
    from serket.embedding import session
    from serket.inputs import check_device

    cache = session()
    if cache.folder is None:
        problem, fix = "embeddings are not kept: SERKET_CACHE is off", "unset SERKET_CACHE, or name a folder"
        raise SerketError(problem, fix=fix)
    if graph is None and not clear:
        raise SerketError("no graph is named", expected="serket embed GRAPH, or serket embed --clear", fix="name one")
    removed = cache.clear() if clear else None
    told = {} if graph is None else _filled(graph, data, check_device(device), quiet or as_json)
    if as_json:
        show_json({"folder": str(cache.folder), **({"removed_bytes": removed} if clear else {}), "modules": told})
    elif not quiet:
        if removed is not None:
            show_text(f"removed {removed / 1e6:.3g} MB from {cache.folder}")
        for name, one in told.items():
            bad = one["unread"]
            text = f"{name}: {one['embedded']} rows of {one['key']} embedded, {one['there']} were there"
            show_text(text + (f"; NaN or Inf in {len(bad)} ({listed(bad)})" if bad else ""))
        if told:
            show_text(f"kept in {cache.folder}")


def _filled(name: str, data: Path | None, device: str, silent: bool) -> dict[str, dict[str, Any]]:
    from serket.embedding import filled
    from serket.graph import load_graph
    from serket.inputs import dataset_for
    from serket.model import load
    from serket.protocol import Embeds

    run = load(name, device=device) if Path(name).is_dir() else None
    described = load_graph(name) if run is None else run.graph
    modules = described.build() if run is None else run.modules
    embedding = {n: m for n, m in modules.items() if isinstance(m, Embeds) and described.nodes[n].data}
    if not embedding:
        raise GraphError(
            "the graph has no frozen encoder that reads data",
            where=described.name,
            found=", ".join(f"{node.name}: {node.type}" for node in described.nodes.values() if node.data) or "none",
            fix="nothing is to be embedded ahead of time",
        )
    source = str(data) if data else None if run is None else run.data.get("source")
    dataset = dataset_for(described, source, missing_ok=True)
    tell(dataset, silent)
    told: dict[str, dict[str, Any]] = {}
    with Bars(err, quiet=silent) as bars:
        for node, module in embedding.items():
            key = str(described.nodes[node].data)
            if key in dataset.arrays:
                made, there, unread = filled(node, module, dataset, key, device=device, report=bars.step)
                told[node] = {"key": key, "embedded": made, "there": there, "unread": unread}
    return told
