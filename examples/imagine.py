"""Imagine one sense from another: two small VAEs over parts of the digits, composed in closed form.

Run it: python examples/imagine.py
"""

import numpy as np

import serket

GRAPH = {
    "serket": 1,
    "data": "digits",
    "variables": {
        "z_fou": {"family": "gaussian", "size": 16},
        "z_kar": {"family": "gaussian", "size": 16},
        "shared": {"family": "gaussian", "size": 16},
    },
    "modules": {
        "fou": {"type": "vae", "data": "fou", "ports": {"latent": "z_fou"}, "hidden": [128], "fit": {"epochs": 30}},
        "kar": {"type": "vae", "data": "kar", "ports": {"latent": "z_kar"}, "hidden": [128], "fit": {"epochs": 30}},
    },
    "composers": {
        "body": {"type": "linear_gaussian", "ports": {"shared": "shared", "views": ["z_fou", "z_kar"]}, "private": 4}
    },
}


def main() -> None:
    model = serket.fit(GRAPH)
    data = model.dataset()
    test = data.subset(data.test)
    imagined = model.generate("kar", given={"fou": test.arrays["fou"]}, samples=3)
    kar = test.arrays["kar"]
    explained = 1 - ((kar - imagined.mean.numpy()) ** 2).sum() / ((kar - kar.mean(0)) ** 2).sum()
    inside = (np.abs(kar - imagined.mean.numpy()) < 2 * imagined.std.numpy()).mean()
    print(f"kar imagined from fou: {explained:.0%} of its variance explained, {inside:.0%} within two deviations")
    print(f"three samples a row: {tuple(imagined.samples.shape)}")


if __name__ == "__main__":
    main()
