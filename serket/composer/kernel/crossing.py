"""All translators of a kernel composer: between views, and into the space they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serket.composer.kernel.gaussian_process import rooted, tune
from serket.composer.kernel.overlap import Overlap
from serket.composer.kernel.translation import LEAST, LeftOut, Population, Reading, Target, Translator
from serket.messages import Gaussian, some_of
from serket.protocol import Progress

__all__ = ["Crossing"]

DENSE = 3000
CHUNK = 1024
TUNED = 512
SCALES = (0.25, 0.5, 1.0, 2.0, 8.0)
NOISES = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """What is known of how latents hang together.

    Args:
        population: of every view.
        translators: by (source, target); targets are views and ``shared``.
        overlaps: by target, what its sources have in common.
        loading: per view ``(D, S)``: E[u | s] = loading s.
        rest: per view ``(D, D)``: Cov[u | s].
        prior: covariance of s, ``(S, S)``, about 0.
    """

    population: Mapping[str, Population]
    translators: Mapping[tuple[str, str], Translator]
    overlaps: Mapping[str, Overlap]
    loading: Mapping[str, Tensor]
    rest: Mapping[str, Tensor]
    prior: Tensor

    @property
    def own_prior(self) -> Gaussian:
        """The prior of s, without batch dimensions."""
        return Gaussian.from_moments(torch.zeros_like(self.prior[0]), self.prior)

    def told(self, target: str, readings: Mapping[str, Reading]) -> Gaussian:
        """Return what all other views say of a target, in units of its population: their product, as sure as measured.

        A source that fades is less than one: they are (sum w)^2 / sum w^2.
        """
        some = next(iter(readings.values()))
        marginal = self.population[target].correlation if target in self.population else self.prior
        info = some.mean.new_zeros(len(some.mean), len(marginal))
        precision, total = info.new_zeros(*info.shape, len(marginal)), info.new_zeros(2, len(info))
        for source, reading in readings.items():
            if source != target and (source, target) in self.translators:
                translator = self.translators[source, target]
                eta, weight = translator(reading)
                info, precision = info + eta, precision + weight[:, None, None] * translator.precision
                total = total + torch.stack([weight, weight.square()])
        prior = Gaussian.from_moments(torch.zeros_like(marginal[0]), marginal)
        sources = total[0].square() / torch.where(total[1] > 0, total[1], 1.0)
        return self.overlaps[target].counted(Gaussian(info, precision), prior, sources)

    def base(self, view: str, above: Gaussian) -> Gaussian:
        """Return what the inbox at ``shared`` says of a view, N(A m, Psi + A V A'); under its prior, the marginal."""
        alike = len(above.info) > 0 and bool((above.info == above.info[:1]).all())
        alike = alike and bool((above.precision == above.precision[:1]).all())
        rows = len(above.info)
        above = (above[:1] if alike else above).full()
        belief = above.where(above.is_proper(), above * self.own_prior.expand(len(above.info)))
        loading = self.loading[view]
        covariance = self.rest[view] + loading @ belief.covariance() @ loading.T
        return Gaussian.from_moments(belief.mean() @ loading.T, covariance).expand(rows)

    @classmethod
    def learn(
        cls,
        messages: Mapping[str, Gaussian],
        size: int,
        inducing: int,
        before: Crossing | None,
        progress: Progress | None,
    ) -> tuple[Crossing, list[float]]:
        """Learn from messages about all views, vacuous where a view is missing; some view speaks in every row.

        Args:
            messages: by view.
            size: of s.
            inducing: points, if there are more than 3000 rows.
            before: what was known, if anything.
            progress: called after every translator.

        Returns:
            The crossing, and the share of each target's variance that each source explains, left out.
        """
        names = list(messages)
        population = {name: Population.of(message) for name, message in messages.items()}
        read = {name: population[name].read(message) for name, message in messages.items()}
        readings = {name: reading for name, (reading, _) in read.items()}
        unread = {name: covariance for name, (_, covariance) in read.items()}
        translators: dict[tuple[str, str], Translator] = {}
        left_out: dict[str, list[LeftOut]] = {name: [] for name in (*names, "shared")}
        curve: list[float] = []

        def learn(name: str, targets: Mapping[str, Target]) -> None:
            found = _translate(readings[name], unread[name], targets, inducing)
            gained = []
            for target, (translator, said) in found.items():
                translators[name, target] = translator
                left_out[target].append(said)
                total = targets[target].values.square().sum().clamp_min(1e-12)
                gained.append(1 - float(said.errors.square().sum() / total))
            curve.extend(gained)
            if progress:
                progress(len(curve), len(names) ** 2, f"{name} explains {sum(gained) / len(gained):.2f}")

        for source in names:
            targets = {}
            for target in names:
                both = (readings[source].present & readings[target].present).nonzero().flatten()
                if target != source and len(both) > 1:
                    values = readings[target].mean[both]
                    targets[target] = Target(both, values, population[target].correlation, unread[target])
            if targets:
                learn(source, targets)
        overlaps = {}
        for name in names:
            rows = readings[name].present.nonzero().flatten()
            whole = Target(rows, readings[name].mean[rows], population[name].correlation, unread[name])
            overlaps[name] = Overlap.measure(left_out[name], whole)
        latents, doubt = _completed(population, readings, translators, overlaps)
        blocks = {source: torch.block_diag(*(doubt[source, name] for name in names)) for source in ("", *names)}
        components, loadings, prior, second = _components(latents, blocks[""], size)
        if before is not None:
            # Turned to what the space meant before: the nearest rotation (Schonemann 1966).
            spoken = (before.told("shared", readings) * before.own_prior.expand(len(components))).mean()
            left, _, right = torch.linalg.svd(components.T @ spoken)
            turn = left @ right
            components, loadings, prior = components @ turn, loadings @ turn, turn.T @ prior @ turn
        # s = projection' u: what is open about the latents of a row is open about s.
        projection = torch.linalg.pinv(second, hermitian=True) @ (loadings @ prior)
        for source in names:
            rows = readings[source].present.nonzero().flatten()
            if len(rows) > 1:
                doubted = projection.T @ blocks[source] @ projection
                learn(source, {"shared": Target(rows, components[rows], prior, doubt=doubted)})
        everything = Target(torch.arange(len(components)).to(components.device), components, prior,
                            doubt=projection.T @ blocks[""] @ projection)  # fmt: skip
        overlaps["shared"] = Overlap.measure(left_out["shared"], everything)
        loading, rest, start = {}, {}, 0
        for name in names:
            dims = slice(start, start + len(unread[name]))
            loading[name], start = loadings[dims], dims.stop
            values, vectors = torch.linalg.eigh(second[dims, dims] - (loading[name] @ prior) @ loading[name].T)
            unexplained = (vectors * values.clamp_min(LEAST)) @ vectors.T
            rest[name] = unexplained + unread[name]
        return cls(population, translators, overlaps, loading, rest, prior), curve

    def to(self, like: Tensor) -> Crossing:
        """Return it on another's device."""
        if next(iter(self.loading.values())).device == like.device:
            return self
        moved = {name: values.to(like.device) for name, values in self.tensors().items()}
        return type(self).from_tensors(moved, list(self.population))

    def tensors(self) -> dict[str, Tensor]:
        """Return what :meth:`from_tensors` takes."""
        found = {"prior": self.prior}
        for name, population in self.population.items():
            parts = {"mean": population.mean, "scale": population.scale, "correlation": population.correlation}
            parts |= {"loading": self.loading[name], "rest": self.rest[name]}
            found |= {f"{name}.{part}": values for part, values in parts.items()}
        found |= {f"{name}.shares": overlap.shares for name, overlap in self.overlaps.items()}
        for (source, target), translator in self.translators.items():
            found |= {f"{source}>{target}.{part}": values for part, values in translator.tensors().items()}
        return found

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor], names: Sequence[str]) -> Crossing:
        """Take it back."""
        population = {
            n: Population(*(state[f"{n}.{part}"] for part in ("mean", "scale", "correlation"))) for n in names
        }
        translators: dict[tuple[str, str], Translator] = {}
        for source in names:
            for target in (*names, "shared"):
                start = f"{source}>{target}."
                held = {key.removeprefix(start): values for key, values in state.items() if key.startswith(start)}
                if held:
                    like = [one for (other, _), one in translators.items() if other == source]
                    translators[source, target] = Translator.from_tensors(held, like)
        overlaps = {name: Overlap(state[f"{name}.shares"]) for name in (*names, "shared")}
        loading, rest = ({name: state[f"{name}.{part}"] for name in names} for part in ("loading", "rest"))
        return cls(population, translators, overlaps, loading, rest, state["prior"])


def _translate(
    source: Reading, unread: Tensor, targets: Mapping[str, Target], inducing: int
) -> dict[str, tuple[Translator, LeftOut]]:
    """Learn translators from one source; targets of the same rows are tuned together, and share what they can."""
    found: dict[str, tuple[Translator, LeftOut]] = {}
    left = dict(targets)
    while left:
        rows = next(iter(left.values())).rows
        group = {name: one for name, one in left.items() if torch.equal(one.rows, rows)}
        left = {name: one for name, one in left.items() if name not in group}
        inputs = source.mean[rows]
        some = some_of(len(rows), TUNED)
        readable = {name: (one.values[some], one.floor) for name, one in group.items()}
        chosen = tune(inputs[some], unread.diagonal(), readable, SCALES, NOISES)
        points = inputs[some_of(len(rows), inducing)] if len(rows) > DENSE else None
        roots: dict[tuple[float, float], Tensor] = {}
        for name, target in group.items():
            kernel, noise = chosen[name]
            key = (float(kernel.metric[0]), noise)
            if points is None and key not in roots:
                roots[key] = rooted(kernel, inputs, noise)
            found[name] = Translator.learn(kernel, inputs, target, noise, points, roots.get(key))
    return {name: found[name] for name in targets}


def _completed(
    population: Mapping[str, Population],
    readings: Mapping[str, Reading],
    translators: Mapping[tuple[str, str], Translator],
    overlaps: Mapping[str, Overlap],
) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
    """Return all rows' latents side by side, ``(rows, sum of D)``, predicted where they are missing; and the doubt.

    That is, by (source, target), the sum of the predictions' covariances over the rows in which the source is there and
    the target is not, over the number of rows with the source; with source "" over all rows.
    """
    marginal = {name: one.correlation for name, one in population.items()}
    crossing = Crossing(population, translators, overlaps, {}, {}, torch.zeros(0))
    everywhere = torch.ones_like(next(iter(readings.values())).present)
    present = {"": everywhere, **{name: reading.present for name, reading in readings.items()}}
    whole, doubt = [], {}
    for name, reading in readings.items():
        latent, missing = reading.mean.clone(), (~reading.present).nonzero().flatten()
        spread = torch.zeros(len(present), *marginal[name].shape).to(latent)
        for rows in missing.split(CHUNK):
            belief = crossing.told(name, {other: one[rows] for other, one in readings.items()})
            belief = belief * Gaussian.from_moments(torch.zeros_like(latent[0]), marginal[name]).expand(len(rows))
            latent[rows] = belief.mean()
            there = torch.stack([one[rows] for one in present.values()]).to(latent)
            spread += torch.einsum("sn,nde->sde", there, belief.covariance())
        for (source, there), total in zip(present.items(), spread, strict=True):
            doubt[source, name] = total / there.sum().clamp_min(1)
        whole.append(latent)
    return torch.cat(whole, 1), doubt


def _components(latents: Tensor, doubt: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return principal components, in the latents' own units so that distances in s are distances between latents.

    Args:
        latents: side by side, ``(rows, D)``.
        doubt: what is open about them, the mean covariance.
        size: S; components beyond what varies are zero.

    Returns:
        The components ``(rows, S)``, loadings ``(D, S)``, covariance ``(S, S)``, and the latents' second moments.
    """
    second = latents.T @ latents / len(latents) + doubt
    values, vectors = torch.linalg.eigh(second)
    values, vectors = values.flip(0)[:size], vectors.flip(1)[:, :size]
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # or their signs were chance
    varies = values > 1e-9 * values[0]
    loadings = torch.nn.functional.pad(torch.where(varies, vectors, 0.0), (0, size - len(values)))
    prior = torch.nn.functional.pad(torch.where(varies, values, 1.0), (0, size - len(values)), value=1.0)
    return latents @ loadings, loadings, prior.diag(), second
