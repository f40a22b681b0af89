"""The figures of the graph tabletop: python benchmarks/tabletop.py [--seeds 3] [--streamed 440].

Runs `serket run tabletop` once per seed; what an object is, is read off the last of an episode's eight moments, by
test episode, with each set of senses. Then the camera dies in mid-episode, on a stream under its virtual clock, and one
sensor lies: every column shifted by ten of its standard deviations. Nothing is chosen on test rows. Writes
benchmarks/tabletop.md.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import serket
from serket.data import Dataset
from serket.data.load import load
from serket.stream import from_arrays, open_stream

HERE = Path(__file__).parent
SENSES = ("camera", "touch", "joints")
SUBSETS = (("camera",), ("touch",), ("joints",), ("touch", "joints"), SENSES)
MOMENTS, PERIOD_NS = 8, 500_000_000


def told(model: serket.Model, data: dict, rows: np.ndarray, senses: tuple[str, ...]) -> np.ndarray:
    """Return the category believed at the end of each episode."""
    belief = model.infer(data, observe=senses, rows=rows)["object"]
    return belief.probs.reshape(-1, MOMENTS, belief.size)[:, -1].argmax(-1).numpy()


def interval(difference: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over episodes."""
    generator = np.random.default_rng(0)
    means = difference[generator.integers(len(difference), size=(draws, len(difference)))].mean(1)
    return tuple(np.quantile(means, (0.025, 0.975)))


def streamed(model: serket.Model, data: dict, rows: np.ndarray, change) -> tuple[np.ndarray, int, int, list]:
    """Return the last belief of each episode, sets in all, episodes that end DEGRADED, and reasons at their ends."""
    last, sets, degraded, reasons = [], 0, 0, []
    stamps = np.arange(MOMENTS) * PERIOD_NS
    for episode in rows.reshape(-1, MOMENTS):
        source = {}
        for sense in SENSES:
            values, kept = change(sense, data[sense][episode])
            if kept:
                source |= {sense: values[:kept], f"{sense}_stamp_ns": stamps[:kept]}
        outputs = list(open_stream(model).run(from_arrays(source, SENSES)))
        last.append(int(outputs[-1].inference.beliefs["object"].probs.argmax()))
        sets += len(outputs)
        degraded += str(outputs[-1].level) == "DEGRADED"
        reasons.append(outputs[-1].reasons)
    return np.array(last), sets, degraded, reasons


def measure(seed: int, folder: Path, dataset: Dataset, count: int) -> dict[str, str]:
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "serket.cli",
        "run",
        "tabletop",
        "--seed",
        str(seed),
        "--out",
        str(folder),
        "--quiet",
    ]
    subprocess.run(command, check=True)
    wall = time.perf_counter() - start
    model = serket.load(folder)
    rows = np.asarray(dataset.test)
    label = np.asarray(dataset.label)[rows][::MOMENTS].astype(int)
    data = {key: np.asarray(dataset.arrays[key], np.float32).reshape(len(dataset.label), -1) for key in SENSES}
    deviation = {key: values[dataset.train].std(0) for key, values in data.items()}
    sequence = {"camera_sequence": np.asarray(dataset.sequence)}
    result, right = {}, {}
    for senses in SUBSETS:
        name = "+".join(senses)
        right[name] = told(model, data | sequence, rows, senses) == label
        result[f"accuracy, {name}"] = f"{right[name].mean():.3f}"
    gain = right["camera+touch+joints"].astype(float) - right["camera"]
    low, high = interval(gain)
    result["all less camera, and 95 %"] = f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"
    some, truth = rows[: count * MOMENTS], label[:count]
    whole, sets, calm, _ = streamed(model, data, some, lambda sense, v: (v, MOMENTS))
    result["streamed, all: accuracy, sets, DEGRADED"] = f"{(whole == truth).mean():.3f}, {sets}, {calm}"
    dead, sets_dead, degraded, _ = streamed(
        model, data, some, lambda sense, v: (v, MOMENTS // 2 if sense == "camera" else MOMENTS)
    )
    blind = right["touch+joints"][:count].mean()
    ratio = (dead == truth).mean() / blind
    result["camera dies: accuracy / that of touch+joints"] = f"{(dead == truth).mean():.3f} / {blind:.3f} = {ratio:.2f}"
    result["camera dies: sets out, of those when alive"] = f"{sets_dead / sets:.3f}"
    result["camera dies: episodes DEGRADED"] = f"{degraded} of {len(truth)}"
    for sense in SENSES:
        others = tuple(name for name in SENSES if name != sense)
        lies = data | {sense: data[sense] + 10 * deviation[sense]}
        lied = (told(model, lies | sequence, rows, SENSES) == label).mean()
        absent = (told(model, data | sequence, rows, others) == label).mean()
        result[f"{sense} lies: accuracy, less without it"] = f"{lied:.3f}, {lied - absent:+.3f}"
        few = some[: 40 * MOMENTS]
        _, _, degraded, reasons = streamed(model, lies, few, lambda sense, v: (v, MOMENTS))
        named = sum(any(reason.startswith(f"{sense}: unlike") for reason in one) for one in reasons)
        result[f"{sense} lies: episodes DEGRADED, and {sense} named"] = (
            f"{degraded} and {named} of {len(few) // MOMENTS}"
        )
    result["whole run, s"] = f"{wall:.0f}"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--streamed", type=int, default=440, help="test episodes on the stream")
    options = parser.parse_args()
    dataset = load("tabletop", [*SENSES, "name"])
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(s, Path(folder) / str(s), dataset, options.streamed) for s in range(options.seeds)]
    lines = [
        "# Tabletop",
        "",
        f"`python benchmarks/tabletop.py --seeds {options.seeds} --streamed {options.streamed}`, {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}. {len(dataset.test) // MOMENTS} test episodes, "
        f"{options.streamed} of them on the stream; chance is 0.05.",
        "Asked for: all senses at least 5 points above the camera; camera dead at least 0.95 of touch and joints,",
        "sets within 5 %; lying within 5 points of absent, DEGRADED with the reason.",
        "",
        "| figure | " + " | ".join(f"seed {seed}" for seed in range(len(results))) + " |",
        "|---|" + "---|" * len(results),
    ]
    lines += [f"| {name} | " + " | ".join(one[name] for one in results) + " |" for name in results[0]]
    text = "\n".join(lines) + "\n"
    (HERE / "tabletop.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
