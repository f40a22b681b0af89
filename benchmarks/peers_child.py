"""Peers on splits and seeds, in the environment that benchmarks/peers.py makes: trains, encodes, imagines, and writes
what benchmarks/peers.py scores.

    python peers_child.py EPOCHS < JOBS        # a line each: DATA.npz PEER SEED OUT.npz

DATA.npz holds each view as float32 rows, with `train` and `test`. What is done for the peers' sake:
- linear outputs: the library's default decoders end in a sigmoid, silently wrong on standardised data;
- the posterior's mean wherever there is one: sampled, MMVAE and MMVAE+ pick one view for the whole batch. JNF from two
  of three views is sampled by Hamiltonian Monte Carlo and has no mean: the mode of the very density it samples from is
  taken, by gradient ascent, and tells more (0.969 against 0.965, the mean of four chains, at a tenth of the time);
- MoPoE looks up complete rows, whatever it is conditioned on: it is given them, and told which views to use;
- JNF has EPOCHS for each of its two stages; MMVAE+ has 8 private dimensions a view beside the 16 shared ones;
- every peer learns from columns of unit variance, and again from views of one scale each, as the composed modules have
  them (PEER, one scale): noise is not blown up, and most peers gain;
- views are imagined both ways, from the decoded mean of the latent and as the mean of 16 decodings of it.
"""

import logging
import os
import sys
import tempfile
import time
from itertools import combinations

import numpy as np
import torch

HIDDEN, LATENT, PRIVATE, BATCH, RATE = 256, 16, 8, 128, 1e-3
DECODINGS = 16
PEERS = ("MVAE", "MMVAE", "MoPoE", "MVTCAE", "JMVAE", "MMVAE+", "JNF")


def main(data, name, seed, epochs, out):
    peer, _, scale = name.partition(", ")
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    from multivae.data import MultimodalBaseDataset

    stored = np.load(data)
    keys = sorted(set(stored.files) - {"train", "test"})
    train, test = stored["train"], stored["test"]
    views, units = {}, {}
    for key in keys:
        mean, std = stored[key][train].mean(0), stored[key][train].std(0)
        std = np.full_like(std, np.sqrt(np.mean(std**2))) if scale else std
        units[key] = mean, np.where(std > 0, std, 1)
        views[key] = torch.tensor((stored[key] - mean) / units[key][1], dtype=torch.float32)
    sets = {
        name: MultimodalBaseDataset({key: view[torch.as_tensor(rows.astype(np.int64))] for key, view in views.items()})
        for name, rows in (("train", train), ("test", test))
    }
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = build(peer, {key: view.shape[1] for key, view in views.items()})
    start = time.process_time()
    model = trained(model, sets["train"], peer, seed, epochs)
    seconds = time.process_time() - start
    parameters = sum(p.numel() for p in model.parameters())
    result = {"seconds": seconds, "parameters": parameters, "train": shared(model, sets["train"], keys, peer)}
    for size in range(1, len(keys) + 1):
        for subset in combinations(keys, size):
            result["+".join(subset)] = shared(model, sets["test"], list(subset), peer)
    for given in keys:
        for to in set(keys) - {given}:
            mean, std = units[to]
            for way, guess in imagined(model, sets["test"], given, to, peer).items():
                result[f"{given}>{to}.{way}"] = guess * std + mean
    with open(f"{out}.waiting", "wb") as file:
        np.savez(file, **result)
    os.rename(f"{out}.waiting", out)


def build(peer, sizes):
    import multivae.models as library

    latent, style = LATENT, PRIVATE if peer == "MMVAE+" else 0
    options = {"n_modalities": len(sizes), "latent_dim": latent, "input_dims": {k: (s,) for k, s in sizes.items()}}
    if peer == "MMVAE+":
        options["modalities_specific_dim"] = style
    kind = peer.replace("+", "Plus")
    config = getattr(library, f"{kind}Config")(**options)
    encoder, decoder = networks()
    encoders = {key: encoder(size, latent, style) for key, size in sizes.items()}
    decoders = {key: decoder(size, latent + style) for key, size in sizes.items()}
    return getattr(library, kind)(config, encoders, decoders)


def networks():
    from multivae.models.nn import BaseMultilatentEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder
    from torch import nn

    def body(width):
        return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU())

    class Plain(BaseEncoder):
        def __init__(self, width, latent):
            BaseEncoder.__init__(self)
            self.latent_dim, self.width = latent, width
            self.body, self.mean, self.spread = body(width), nn.Linear(HIDDEN, latent), nn.Linear(HIDDEN, latent)

        def forward(self, x):
            hidden = self.body(x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.spread(hidden))

    class Styled(BaseMultilatentEncoder):
        def __init__(self, width, latent, style):
            BaseMultilatentEncoder.__init__(self)
            self.latent_dim, self.style_dim = latent, style
            self.body, self.mean, self.spread = body(width), nn.Linear(HIDDEN, latent), nn.Linear(HIDDEN, latent)
            self.style_mean, self.style_spread = nn.Linear(HIDDEN, style), nn.Linear(HIDDEN, style)

        def forward(self, x):
            hidden = self.body(x)
            return ModelOutput(
                embedding=self.mean(hidden),
                log_covariance=self.spread(hidden),
                style_embedding=self.style_mean(hidden),
                style_log_covariance=self.style_spread(hidden),
            )

    class Linear(BaseDecoder):
        def __init__(self, width, latent):
            BaseDecoder.__init__(self)
            self.latent_dim = latent
            self.body = nn.Sequential(nn.Linear(latent, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z))

    return lambda width, latent, style: Styled(width, latent, style) if style else Plain(width, latent), Linear


def trained(model, rows, peer, seed, epochs):
    from multivae.trainers import BaseTrainer, BaseTrainerConfig, MultistageTrainer, MultistageTrainerConfig

    staged = peer == "JNF"
    trainer, config = (MultistageTrainer, MultistageTrainerConfig) if staged else (BaseTrainer, BaseTrainerConfig)
    if staged:
        model.warmup, model.reset_optimizer_epochs = epochs, [epochs + 1]
    with tempfile.TemporaryDirectory() as folder:
        options = config(
            output_dir=folder,
            num_epochs=2 * epochs if staged else epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            seed=seed,
            no_cuda=True,
        )
        run = trainer(model, train_dataset=rows, training_config=options)
        run.train()
        return run._best_model.eval()


@torch.no_grad()
def latent(model, rows, subset, peer, draws=1):
    """Return the library's own encoding: means, or so many draws `(draws, rows, D)`."""
    return model.encode(rows, cond_mod=subset, N=draws, return_mean=draws == 1)


def shared(model, rows, subset, peer):
    if peer == "JNF" and 1 < len(subset) < len(rows.data):
        return mode(model, rows, subset)
    return latent(model, rows, subset, peer).z.numpy()


def mode(model, rows, subset, steps=300):
    """Climb to the mode of JNF's product of experts, from the mean of what each view says."""
    start = torch.stack([latent(model, rows, [view], "JNF").z for view in subset]).mean(0)
    z = start.clone().requires_grad_()
    ascent = torch.optim.Adam([z], lr=0.02)
    for _ in range(steps):
        z.grad = -model._compute_poe_posterior(subset, z, rows.data)[1]
        ascent.step()
    return z.detach().numpy()


def imagined(model, rows, given, to, peer):
    """Return one view from another, decoded from the mean of the latent, and as the mean of decoded draws."""
    point = latent(model, rows, [given], peer)
    many = latent(model, rows, [given], peer, DECODINGS)
    each = [model.decode(one(many, draw), to)[to] for draw in range(DECODINGS)]
    return {"point": model.decode(point, to)[to].numpy(), "mean": torch.stack(each).mean(0).numpy()}


def one(encoding, draw):
    """Return one draw of an encoding of many."""
    from pythae.models.base.base_utils import ModelOutput

    parts = {"z": encoding.z[draw], "one_latent_space": encoding.one_latent_space}
    if not encoding.one_latent_space:
        parts["modalities_z"] = {key: value[draw] for key, value in encoding.modalities_z.items()}
    return ModelOutput(**parts)


if __name__ == "__main__":
    for number, line in enumerate(jobs := sys.stdin.read().splitlines(), 1):
        data, peer, seed, out = line.split("\t")
        main(data, peer, int(seed), int(sys.argv[1]), out)
        print(f"{number}/{len(jobs)} {os.path.basename(out)}", flush=True)
