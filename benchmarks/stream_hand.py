"""The graph of benchmarks/stream.py as a program for it alone: two encoders, a product of precisions, a mixture.

All that the engine puts into an output of the model: the belief over z (mean and covariance), the probabilities of the
kinds, what each sensor has contributed, and conflict. What depends on the fitted modules alone is computed beforehand.
"""

import math

import torch
import torch.nn.functional as F

LOG_2PI = math.log(2 * math.pi)


class ByHand:
    """Takes the fitted states of the modules ``see``, ``feel`` and ``kinds``; then a call a set."""

    def __init__(self, states, dtype):
        self.encoders = [{name: value.to(dtype) for name, value in states[key].items()} for key in ("see", "feel")]
        kinds = {name: value.double() for name, value in states["kinds"].items()}
        means = kinds["location"] + kinds["scale"] * kinds["means"]  # (draws, K, D)
        factor = kinds["scale"].unsqueeze(-1) * kinds["cholesky"]
        covariance = factor @ factor.mT
        precision = torch.linalg.inv(covariance)
        info = (precision @ means.unsqueeze(-1)).squeeze(-1)
        constant = -(means * info).sum(-1) / 2 - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_weights = kinds["log_weights"].logsumexp(0).log_softmax(-1)
        # The prior of z: mean and covariance of the mixture, its draws averaged.
        weights = log_weights.exp() / len(means)
        mean = (weights.unsqueeze(-1) * means).sum((0, 1))
        gap = means - mean
        spread = covariance + gap.unsqueeze(-1) * gap.unsqueeze(-2)
        prior = torch.linalg.inv((weights[..., None, None] * spread).sum((0, 1)))
        self.size = len(mean)
        self.prior_log_z = float((mean @ prior @ mean - torch.logdet(prior) + self.size * LOG_2PI) / 2)
        self.prior_info, self.prior = (prior @ mean).to(dtype), prior.to(dtype)
        self.info, self.precision = info.to(dtype).flatten(0, 1), precision.to(dtype).flatten(0, 1)
        self.constant, self.log_weights = constant.to(dtype), log_weights.to(dtype)

    def __call__(self, reading):
        """Return mean and covariance of z, probabilities, contributions and conflict."""
        info_see, told_see = encoded(self.encoders[0], reading["see"])
        info_feel, told_feel = encoded(self.encoders[1], reading["feel"])
        info, told = info_see + info_feel, told_see + told_feel
        # The belief, and it without `see` and without `feel`: one factorisation of three.
        infos = self.prior_info + torch.stack((info, info_feel, info_see))
        precisions = self.prior + torch.diag_embed(torch.stack((told, told_feel, told_see)))
        factors = torch.linalg.cholesky(precisions)
        means = torch.cholesky_solve(infos.unsqueeze(-1), factors)
        half_log_dets = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_z = (infos * means.squeeze(-1)).sum(-1) / 2 - half_log_dets + self.size * LOG_2PI / 2
        covariance = torch.cholesky_inverse(factors[0])
        gap, others = means[0] - means[1:], precisions[1:]
        trace, pull = (others * covariance).sum((-2, -1)), (gap.mT @ others @ gap).flatten()
        gained = (trace + pull - self.size) / 2 + half_log_dets[0] - half_log_dets[1:]
        # With two sensors, what one says alone with the prior is what is known without the other.
        conflict = log_z[0] - log_z[1] - log_z[2] + self.prior_log_z
        # Of each draw and component the integral of N(z; mu, Sigma) times both messages.
        factor = torch.linalg.cholesky(self.precision + torch.diag_embed(told))
        half = torch.linalg.solve_triangular(factor, (self.info + info).unsqueeze(-1), upper=False)
        scores = half.square().sum((-2, -1)) / 2 - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        logits = (scores.view_as(self.constant) + self.constant).logsumexp(0) + self.log_weights
        return means[0].squeeze(-1), covariance, logits.softmax(-1), gained.tolist(), float(conflict)


def encoded(weights, values):
    """Return what a VAE's encoder says of one reading, information and precision, ``(D,)`` each."""
    hidden = (values - weights["location"]) / weights["scale"]
    hidden = F.relu(F.linear(hidden, weights["encoder.0.weight"], weights["encoder.0.bias"]))
    info, raw = F.linear(hidden, weights["encoder.1.weight"], weights["encoder.1.bias"]).chunk(2, -1)
    return info * weights["speaks"], F.softplus(raw) * weights["speaks"]


def difference(inference, by_hand):
    """Return the greatest difference of any number between an engine's inference and a program's."""
    mean, covariance, probs, gained, conflict = by_hand
    z, kind = inference.beliefs["z"], inference.beliefs["kind"]
    found = [z.mean()[0] - mean, z.covariance()[0] - covariance, kind.probs[0] - probs]
    found += [torch.tensor(gained) - torch.tensor([inference.contribution[key] for key in ("see", "feel")])]
    return max(abs(conflict - inference.conflict), *(float(one.abs().max()) for one in found))
