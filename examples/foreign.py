"""Two frozen encoders that others trained, a PCA and a torch network, composed with a hundred pairs.

Labels are looked at for the score only. Run it: python examples/foreign.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.decomposition import PCA

import serket
from serket.data import load

PAIRS = 100
DATA = load("digits", ["pix", "fou"])
TRAIN, TEST = np.asarray(DATA.train), np.asarray(DATA.test)


def graph(weights):
    pix = {"type": "callable", "function": "pixels", "data": "pix", "ports": {"latent": "z_pix"}}
    fou = {"type": "torch", "network": "shapes", "weights": str(weights), "data": "fou", "ports": {"latent": "z_fou"}}
    body = {"type": "linear_gaussian", "ports": {"shared": "shared", "views": ["z_pix", "z_fou"]}, "private": 4}
    sizes = {"z_pix": 16, "z_fou": 16, "shared": 8}
    return {
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": size} for name, size in sizes.items()},
        "modules": {"pix": pix, "fou": fou},
        "composers": {"body": body},
    }


@serket.network("shapes")
def network():
    return torch.nn.Sequential(torch.nn.Linear(76, 64), torch.nn.Tanh(), torch.nn.Linear(64, 32), torch.nn.Tanh())


def somebody_trains_it(file):
    """An autoencoder, of which the first half is kept."""
    torch.manual_seed(0)
    x, half, back = torch.from_numpy(DATA.arrays["fou"][TRAIN]).float(), network(), torch.nn.Linear(32, 76)
    optimiser = torch.optim.Adam([*half.parameters(), *back.parameters()], lr=3e-3)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(back(half((x - x.mean(0)) / x.std(0))), x).backward()
        optimiser.step()
    save_file(half.state_dict(), file)


def main() -> None:
    pca = PCA(32, random_state=0).fit(DATA.arrays["pix"][TRAIN])
    serket.encoder("pixels")(pca.transform)  # registered as it stands
    train = {key: DATA.arrays[key][TRAIN] for key in ("pix", "fou")}
    # Every row is seen by one sense or the other; a hundred by both.
    order = np.random.default_rng(0).permutation(len(TRAIN))
    train["fou_mask"] = np.isin(np.arange(len(TRAIN)), order[: len(TRAIN) // 2])
    train["pix_mask"] = np.isin(np.arange(len(TRAIN)), order[len(TRAIN) // 2 - PAIRS :])
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "shapes.safetensors"
        somebody_trains_it(weights)
        model = serket.fit(graph(weights), train, test_fraction=0)
        told = {key: model.infer({key: DATA.arrays[key][TEST]})["shared"].mean() for key in ("pix", "fou")}
    label = np.asarray(DATA.label)[TEST]
    nearest = torch.cdist(told["fou"], told["pix"]).fill_diagonal_(torch.inf).argmin(1)  # never the row's own picture
    same = (label[nearest] == label).mean()
    print(f"composed in {model.seconds['total']:.1f} seconds, from {PAIRS} pairs")
    print(f"the nearest picture to a row of the other sense shows the same digit: {same:.0%} (chance 10%)")


if __name__ == "__main__":
    main()
