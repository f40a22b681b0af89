"""A run on a stream: live or recorded, and again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serket.cli.played import LIVE, advise, last_of, lasting, remember, useless
from serket.cli.shared import (
    DeviceOpt,
    JsonOpt,
    PluginOpt,
    QuietOpt,
    RunArg,
    SeedOpt,
    err,
    model_of,
    near,
    plug,
    show_json,
    show_text,
)
from serket.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serket.graph.stream import StreamEntry
    from serket.model import Model
    from serket.stream import Observation
    from serket.stream.play import Sink

MOST_REASONS, COLUMNS = 5, 80

HzOpt = Annotated[float | None, typer.Option("--hz", min=0.001, help="Rows per second of a source without stamps.")]
TopicOpt = Annotated[
    list[str] | None,
    typer.Option("--topic", metavar="KEY=/NAME", help="The ROS 2 topic of a sensor; else the graph's."),
]
RerunOpt = Annotated[Path | None, typer.Option("--rerun", help="A recording for the Rerun viewer: out.rrd.")]
SequenceOpt = Annotated[int | None, typer.Option("--sequence", help="Only this sequence of the source.")]


def stream(
    run: RunArg,
    source: Annotated[
        str,
        typer.Option("--source", help="A ROS 2 bag, an .npz recording, a data set, or ros2: live topics."),
    ],
    topic: TopicOpt = None,
    sink: Annotated[
        Path | None,
        typer.Option("--sink", help="Beliefs and health: a new x.jsonl, a line per set; ros2; or a new ROS 2 bag."),
    ] = None,
    rate: Annotated[str, typer.Option("--rate", help="1.0: as it was received; max: as fast as can be.")] = "max",
    wait: Annotated[float, typer.Option("--wait", min=0.0, help="Live: seconds to wait for who publishes.")] = 10.0,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="Live: end after so many; else by Ctrl-C.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="Live: keep every reading heard, to replay it: a new file x.npz.")
    ] = None,
    rerun: RerunOpt = None,
    hz: HzOpt = None,
    sequence: SequenceOpt = None,
    seed: SeedOpt = None,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Infer from a stream, set after set, and show sensors, health and belief while it runs."""
    plug(plugin)
    model = model_of(run, device, seed)
    speed = _rate(rate)
    told = {"source": lasting(source, model.graph.folder), "hz": hz, "sequence": sequence, "topics": topic or []}
    if source == LIVE and speed is not None:
        raise DataError("a live stream has a pace of its own", where="--rate", found=rate, fix="leave --rate out")
    if source != LIVE and record is not None:
        raise DataError("the source is a recording already", where="--record", found=source, fix="leave --record out")
    kept = _play(run, model, told, sink, speed, quiet, as_json, rerun=rerun, wait=wait, seconds=seconds, record=record)
    remember(run, told if kept is None else told | {"source": str(kept.resolve())})


def replay(
    run: RunArg,
    source: Annotated[
        str | None, typer.Option("--source", help="What to play; else what was played last on this run directory.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Beliefs and health: a new x.jsonl, a line per set, or else a new ROS 2 bag."),
    ] = None,
    hz: HzOpt = None,
    sequence: SequenceOpt = None,
    seed: SeedOpt = None,
    device: DeviceOpt = "cpu",
    plugin: PluginOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Play a recording again by its own clock: the same outputs to the byte, every time."""
    plug(plugin)
    model = model_of(run, device, seed)
    told: dict[str, Any] = {"source": source, "hz": hz, "sequence": sequence}
    if source == LIVE:
        raise DataError("what is live is not there again", where="--source", found=LIVE, fix=f"serket stream {run}")
    if source is None:
        told = last_of(run)
    _play(run, model, told, out, None, quiet, as_json)


def _play(
    run: str,
    model: Model,
    told: dict[str, Any],
    out: Path | None,
    rate: float | None,
    quiet: bool,
    as_json: bool,
    *,
    rerun: Path | None = None,
    wait: float = 0.0,
    seconds: float | None = None,
    record: Path | None = None,
) -> Path | None:
    """Play a source; return the recording that was made of it."""
    from serket.cli.live import awaited, opened, stopping
    from serket.stream import measured, open_stream
    from serket.stream.account import Account
    from serket.stream.play import follow, play
    from serket.stream.recorder import Recorder
    from serket.stream.scene import Scene
    from serket.stream.timeline import Timeline
    from serket.stream.view import View

    live, silent = told["source"] == LIVE, quiet or as_json
    pipeline = open_stream(model, service=measured if live or rate is not None else None)
    topics = _topics(model, pipeline.entry, told.get("topics") or [])
    account, timeline = Account(), Timeline(list(pipeline.counts))
    sinks: list[Sink] = [account, timeline]
    sizes: dict[str, tuple[int, ...]] = {}
    with ExitStack() as stack:
        node, recorder = None, None
        if record is not None:
            recorder = stack.enter_context(Recorder(record, model.keys))
        if live or str(out) == LIVE:
            published = model.graph.variables if str(out) == LIVE else ()
            node = stack.enter_context(opened(topics if live else {}, pipeline.entry, published, silent))
        if out is not None:
            sinks.append(node if node is not None and str(out) == LIVE else _sink(out, stack))
        if live and node is not None:
            stack.enter_context(stopping(node))
            awaited(node, wait, silent)
        scene = None if rerun is None else stack.enter_context(Scene(rerun, pipeline))
        if scene is not None:
            sinks.append(scene)

        def heard(observation: Observation) -> None:
            sizes.setdefault(observation.sensor, observation.shape or tuple(observation.values.shape))
            if scene is not None:
                scene.heard(observation)

        if not silent:
            sinks.append(stack.enter_context(View(pipeline, err)))
        try:
            if live and node is not None:
                events = node.events(seconds) if recorder is None else recorder.through(node.events(seconds))
                follow(pipeline, events, sinks, heard=heard, lost=node.mailbox.lost)
            else:
                play(pipeline, _observations(model, pipeline.entry, topics, told), sinks, rate=rate, heard=heard)
        except KeyboardInterrupt:
            err.print("interrupted: what follows is what was seen until then", markup=False)
    summary, kept = account.summary(pipeline), None if recorder is None else recorder.path
    picture = Path(run) / "stream" / "stream.png" if Path(run).is_dir() else None
    if picture is not None:
        from serket.store import update_file

        update_file(run, "stream/stream.png", timeline.drawn())
    if as_json:
        show_json(summary)
    elif not quiet:
        _show(summary)
        for path in (out, rerun, kept, picture):
            if path is not None and str(path) != LIVE:
                show_text(f"written to {near(path)}")
    for name, number in recorder.left_out.items() if recorder else ():
        err.print(f"warning: {name}: {number} readings of another size are not in the recording", markup=False)
    advise(pipeline, sizes)
    if not any(count.used for count in pipeline.counts.values()):
        raise useless(told["source"], pipeline.counts)
    return kept


def _topics(model: Model, entry: StreamEntry, pairs: list[str]) -> dict[str, str]:
    """Return the topic of each sensor: as told, as the graph has it, or else its key."""
    from serket.stream.node import sensors_of

    topics = {key: entry.sensor(key).topic or key for key in model.keys}
    return topics | sensors_of(pairs, topics)


def _observations(
    model: Model, entry: StreamEntry, topics: dict[str, str], told: dict[str, Any]
) -> Iterator[Observation]:
    """Open a source: a ROS 2 bag, or arrays."""
    from serket.stream import from_arrays
    from serket.stream.bags import from_bag, is_bag

    if is_bag(told["source"]):
        return from_bag(told["source"], topics)
    options = {"hz": told["hz"], "sequence": told["sequence"], "near": model.graph.folder}
    return from_arrays(told["source"], model.keys, entry=entry, **options)


def _sink(out: Path, stack: ExitStack) -> Sink:
    """Open a sink: lines of JSON in a new file that ends in .jsonl or .json, else a new ROS 2 bag."""
    from serket.store.files import naming
    from serket.stream.sinks import BagSink, JsonLines

    if out.suffix not in (".json", ".jsonl"):
        return stack.enter_context(BagSink(out))
    if out.is_file():
        fix = "remove it, or choose another name"
        raise DataError("beliefs would replace what stands there", where=str(out), fix=fix)
    stack.push(lambda kind, *_: out.unlink() if kind and out.is_file() and not out.stat().st_size else None)
    with naming(out):
        return JsonLines(stack.enter_context(out.open("w", encoding="utf-8")))


def _show(summary: dict[str, Any]) -> None:
    levels = ", ".join(f"{name} {count}" for name, count in summary["levels"].items())
    pace = f", {summary['per_second']:g} a second" if summary["per_second"] else ""
    show_text(f"sets: {summary['sets']}{pace}; {levels or 'none'}")
    for reason, count in [*summary["reasons"].items()][:MOST_REASONS]:
        line = f"  in {count}: {reason}"
        show_text(line if len(line) <= COLUMNS else f"{line[: COLUMNS - 3]}...")
    for name, count in summary["sensors"].items():
        lost = ", ".join(f"{number} {reason}" for reason, number in count["dropped"].items())
        show_text(f"{name}: received {count['received']}, used {count['used']}" + (f", dropped {lost}" if lost else ""))
    for name in ("missed_deadlines", "clock_resets", "revisions"):
        if summary[name]:
            show_text(f"{name.replace('_', ' ')}: {summary[name]}")
    times = ", ".join(f"{name} {told['p50']:g}" for name, told in summary["ms"].items() if told)
    show_text(f"median ms: {times}")


def _rate(text: str) -> float | None:
    try:
        rate = None if text == "max" else float(text)
    except ValueError:
        rate = 0.0
    if rate is not None and not 0 < rate < float("inf"):
        raise DataError("no such rate", where="--rate", expected="a number above zero, or max", found=text, fix="1.0")
    return rate
