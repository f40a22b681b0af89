"""A sensor that starts to lie, on a stream: python benchmarks/lying.py [--rows 400]. Writes benchmarks/lying.md.

Three sensors look at one place, a mixture says of what kind it is. From the middle of the stream on one of them is
shifted by ten standard deviations, up or down, in every reading. Accuracy is that of the beliefs that go out from then
on, about rows that nothing was fitted on; clusters are named by the training rows.
"""

import argparse
from pathlib import Path

import numpy as np

import serket
from serket.graph.stream import StreamEntry
from serket.stream import Observation, open_stream

HERE = Path(__file__).parent
KEYS = ("left", "right", "above")
WAYS = {"neither": (0.0, ()), "gate": (0.0, KEYS), "robust: 0.05": (0.05, ()), "robust: 0.01": (0.01, ())}
NOISE = 0.5  # standard deviation of a sensor
CENTRES = np.array([[-1.0, -0.6], [1.0, -0.6], [0.0, 1.2]])


def rows(count, seed):
    """Places of three kinds, and what each sensor reads."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=count)
    place = CENTRES[kind] + rng.normal(size=(count, 2)) * 0.4
    return {key: place + rng.normal(size=(count, 2)) * NOISE for key in KEYS}, kind


def spec(robust):
    """The graph: sensors on the place itself, or, robust, each on its own, and a product of the three."""
    eye, square = [[1, 0], [0, 1]], NOISE**2
    on = {key: f"by_{key}" if robust else "place" for key in KEYS}
    sensor = {"type": "linear_gaussian", "matrix": eye, "noise": [[square, 0], [0, square]]}
    kinds = {"type": "gmm", "ports": {"component": "kind", "observation": "place"}, "fit": {"restarts": 5}}
    product = {"type": "product", "ports": {"shared": "place", "views": [*on.values()]}, "robust": robust}
    places = dict.fromkeys(["place", *on.values()], {"family": "gaussian", "size": 2})
    return {
        "serket": 1,
        "variables": {**places, "kind": {"family": "categorical", "size": 3}},
        "modules": {**{key: {**sensor, "data": key, "ports": {"given": on[key]}} for key in KEYS}, "kinds": kinds},
        **({"composers": {"vote": product}} if robust else {}),
    }


def fitted(robust, count=600):
    """The model and the kind of each cluster."""
    data, kind = rows(count, 0)
    model = serket.fit(spec(robust), data, workers=1, test_fraction=0.0)
    cluster = model.infer(data)["kind"].probs.argmax(-1).numpy()
    return model, np.array([np.bincount(kind[cluster == k], minlength=3).argmax() for k in range(3)])


def played(model, names, data, kind, gates=()):
    """Return how often the kind was right and how often health was not OK, with what it said, from the middle on."""
    entry = {"sensors": {key: {"gate": {"mahalanobis": 5}} for key in gates}}
    pipeline = open_stream(model, StreamEntry.model_validate(entry))
    outputs = []
    for i in range(len(kind)):
        for key, values in data.items():
            if np.isfinite(values[i]).all():
                outputs += pipeline.push(Observation(key, i * 10**8, i * 10**8, values[i]))
    outputs += pipeline.close()
    after = [o for o in outputs if o.time_ns >= len(kind) // 2 * 10**8]
    guess = np.array([names[int(o.inference.beliefs["kind"].probs[0].argmax())] for o in after])
    right = float((guess == kind[len(kind) // 2 :]).mean())
    said = {reason for o in after for reason in o.reasons}
    return right, float(np.mean([str(o.level) != "OK" for o in after])), said


def cases(count):
    """Yield the way, the liar, the shift, and what became of it: absent and lying."""
    data, kind = rows(count, 1)
    late = np.arange(count)[:, None] >= count // 2
    for way, (robust, gates) in WAYS.items():
        model, names = fitted(robust)
        for key in KEYS:
            spread = data[key].std()
            absent = played(model, names, {**data, key: np.where(late, np.nan, data[key])}, kind, gates)
            for shift in (10, -10):
                lied = {**data, key: data[key] + late * shift * spread}
                yield way, key, shift, absent, played(model, names, lied, kind, gates)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    options = parser.parse_args()
    found = list(cases(options.rows))
    data, kind = rows(options.rows, 1)
    honest = played(*fitted(0.0), data, kind)
    lines = [
        "# A sensor that lies",
        "",
        f"`python benchmarks/lying.py --rows {options.rows}`: three sensors of one place, one of them shifted by 10 "
        f"standard deviations in the second half of a stream of {options.rows} rows. Accuracy of the kind since; "
        "the mean over the three sensors and both signs, and the worst loss against that sensor's absence. "
        f"With all three honest: {honest[0]:.3f}.",
        "",
        "| | absent | lying | worst loss, points | outputs DEGRADED |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        pairs = [(absent, lied) for w, _, _, absent, lied in found if w == way]
        absent, lied = (np.mean([one[0] for one in side]) for side in zip(*pairs, strict=True))
        loss = 100 * max(a[0] - b[0] for a, b in pairs)
        degraded = np.mean([b[1] for _, b in pairs])
        lines.append(f"| {way} | {absent:.3f} | {lied:.3f} | {loss:.1f} | {degraded:.1%} |")
    (HERE / "lying.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
