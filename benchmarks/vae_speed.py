"""What a VAE's training costs beside a loop written by hand: python benchmarks/vae_speed.py [--runs 7].

Both keep their tensors resident and take the same number of Adam steps on networks of the same widths, on one thread,
in alternating runs of one process; the ratio is that of the medians. Writes benchmarks/vae_speed.md.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from serket.messages import Family, Gaussian
from serket.modules import VAE
from serket.protocol import Evidence, Port, Role

BATCH = 500
SETTINGS = [  # data's columns, hidden, latent, rows, epochs a run, likelihood
    (784, 128, 10, 3000, 10, "bernoulli"),
    (784, 128, 10, 3000, 10, "gaussian"),
    (784, 512, 32, 60000, 1, "bernoulli"),
]


def by_hand(x: torch.Tensor, hidden: int, size: int, likelihood: str, epochs: int) -> Callable[[], None]:
    """The shortest loop that trains the usual VAE well: logits, fused Adam, nothing moved, nothing logged."""
    width = x.shape[1]
    encoder = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 2 * size))
    decoder = torch.nn.Sequential(torch.nn.Linear(size, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, width))
    log_variance = torch.zeros((), requires_grad=True)
    learnt = [*encoder.parameters(), *decoder.parameters(), *([log_variance] if likelihood == "gaussian" else [])]
    descent = torch.optim.Adam(learnt, lr=1e-3, fused=True)

    def run() -> None:
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(BATCH):
                batch = x[rows]
                mean, log_sigma = encoder(batch).chunk(2, -1)
                z = mean + torch.randn_like(mean) * log_sigma.exp()
                out = decoder(z)
                divergence = (mean.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum() / 2
                if likelihood == "bernoulli":
                    loss = F.binary_cross_entropy_with_logits(out, batch, reduction="sum")
                else:
                    loss = (
                        F.mse_loss(out, batch, reduction="sum") / log_variance.exp() / 2
                        + log_variance * batch.numel() / 2
                    )
                descent.zero_grad(set_to_none=True)
                ((loss + divergence) / len(rows)).backward()
                descent.step()

    return run


def by_serket(
    x: torch.Tensor, hidden: int, size: int, likelihood: str, epochs: int, above: Gaussian | None = None
) -> Callable[[], None]:
    module = VAE(
        {"latent": Port(Role.PARENT, Family.GAUSSIAN, size)}, hidden=[hidden], likelihood=likelihood, noise=0.0
    )
    evidence, inbox = Evidence.of(x), {"latent": above or Gaussian.vacuous((len(x),), size)}
    generator = torch.Generator().manual_seed(0)
    return lambda: module.fit(evidence, inbox, generator=generator, epochs=epochs, batch=BATCH) and None


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    lines = [
        "# VAE training beside a loop written by hand",
        "",
        f"`python benchmarks/vae_speed.py --runs {runs}`, {platform.machine()}, one thread, torch {torch.__version__}. "
        f"Batch {BATCH}, no noise on the input. Medians of alternating runs of one process, seconds an epoch; "
        "wanted: a ratio of at most 1.10.",
        "",
        "| network | rows | likelihood | by hand | serket | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for width, hidden, size, rows, epochs, likelihood in SETTINGS:
        x = torch.rand(rows, width, generator=torch.Generator().manual_seed(1))
        hand, ours = (make(x, hidden, size, likelihood, epochs) for make in (by_hand, by_serket))
        seconds(hand), seconds(ours)
        times = [(seconds(hand) / epochs, seconds(ours) / epochs) for _ in range(runs)]
        a, b = (median(column) for column in zip(*times, strict=True))
        lines.append(f"| {width}-{hidden}-{size} | {rows} | {likelihood} | {a:.4f} | {b:.4f} | {b / a:.2f} |")
        print(lines[-1], flush=True)
    lines += ["", "Seconds an epoch of a refit under messages from above, 784-128-18, 2000 rows, batch 500:", ""]
    x, g = torch.rand(2000, 784, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    root = torch.randn(2000, 18, 18, generator=g) / 18**0.5
    full = Gaussian(torch.randn(2000, 18, generator=g), root @ root.mT + 0.5 * torch.eye(18))
    diagonal = Gaussian(full.info, full.precision.diagonal(dim1=-2, dim2=-1))
    refits = {
        form: by_serket(x, 128, 18, "bernoulli", 5, one) for form, one in {"diagonal": diagonal, "full": full}.items()
    }
    times = {form: median(seconds(run) / 5 for _ in range(runs)) for form, run in refits.items()}
    lines += [f"- {form}: {value:.4f}" for form, value in times.items()]
    print(times)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
