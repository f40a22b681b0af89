"""One scale for all axes of a point reading, or whitened axes? Digits named from one sense, in held-out training rows.

Run it: PYTHONPATH=. python benchmarks/frozen_scaling.py
"""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import serket
from serket.data import load
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role
from serket.registry import lookup

SHARED, KEYS = 8, ("pix", "fou")
serket.encoder("benchmark_rows")(lambda x: x)


def port(role, size):
    return Port(role, Family.GAUSSIAN, size)


def scores(data, seed, size, pairs, scaling):
    order = np.random.default_rng(seed).permutation(np.asarray(data.train))
    held_out, rows = order[:200], order[200:]
    paired, said = rows[:pairs], {}
    for key in KEYS:
        module = lookup("callable", "module")(
            ports={"latent": port(Role.PARENT, size)}, function="benchmark_rows", scaling=scaling
        )
        x = torch.from_numpy(np.asarray(data.arrays[key], dtype=np.float64))
        module.fit(Evidence.of(x[rows]), {}, generator=torch.Generator())
        nothing = Gaussian.vacuous((len(x),), size, dtype=torch.float64)
        said[key] = module.infer({"latent": nothing}, Evidence.of(x), generator=torch.Generator()).messages["latent"]

    def inbox(some, keys, prior):
        silence = Gaussian.vacuous((len(some),), size, dtype=torch.float64)
        views = {
            f"views[{i}]": said[key][torch.from_numpy(some)] if key in keys else silence for i, key in enumerate(KEYS)
        }
        return {"shared": prior(len(some)), **views}

    body = lookup("linear_gaussian", "composer")(
        ports={"shared": port(Role.PARENT, SHARED), **{f"views[{i}]": port(Role.CHILD, size) for i in (0, 1)}},
        private=4,
    )
    generator = torch.Generator().manual_seed(0)
    vacuous = lambda n: Gaussian.vacuous((n,), SHARED, dtype=torch.float64)  # noqa: E731
    standard = lambda n: Gaussian.standard((n,), SHARED, dtype=torch.float64)  # noqa: E731
    body.fit(Evidence.none(pairs), inbox(paired, KEYS, vacuous), generator=generator, owned=frozenset({"shared"}))

    def shared(some, keys):
        heard = inbox(some, keys, standard)
        reply = body.infer(heard, Evidence.none(len(some)), generator=generator, ports=frozenset({"shared"}))
        return (reply.messages["shared"] * heard["shared"]).mean().numpy()

    label = np.asarray(data.label)
    probe = LogisticRegression(max_iter=500).fit(shared(paired, KEYS), label[paired])
    return [probe.score(shared(held_out, keys), label[held_out]) for keys in (*((key,) for key in KEYS), KEYS)]


def main():
    data = load("digits", list(KEYS))
    print("| axes | pairs | scaling | " + " | ".join((*KEYS, "both")) + " |\n|---|---|---|---|---|---|")
    for size in (8, 32):
        for pairs in (50, 200):
            for scaling in ("overall", "whiten"):
                mean = np.mean([scores(data, seed, size, pairs, scaling) for seed in range(3)], 0)
                print(f"| {size} | {pairs} | {scaling} | " + " | ".join(f"{one:.2f}" for one in mean) + " |")


if __name__ == "__main__":
    main()
