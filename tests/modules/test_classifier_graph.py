"""The graph vae_gmm_classifier: names of digits from a hundred labels, against naming the concepts by the same labels."""

import numpy as np
import pytest
import torch

import serket
from serket.data.generate import GENERATED
from serket.messages import Categorical

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(1, 10))]


def accuracies(seed):
    """Fraction of held-out digits named rightly: by the classifier, and by what the concept of each is mostly called."""
    data = GENERATED["digits_named"]()
    test, told = data["test"], np.flatnonzero(data["name_mask"])
    model = serket.fit("vae_gmm_classifier", seed=seed)
    beliefs = model.infer({"fou": data["fou"][test]})
    named = model.modules["names"].predict({"latent": beliefs["z"]}, generator=torch.Generator())
    by_classifier = named.base_dist.probs.squeeze(1).argmax(-1)
    learnt = model.infer({"fou": data["fou"][told]})["concept"]
    assert isinstance(learnt, Categorical)
    called = learnt.probs.T @ torch.eye(10)[data["label"][told].astype(int)].to(learnt.probs) + 0.1
    by_concept = (beliefs["concept"].probs @ (called / called.sum(1, keepdim=True))).argmax(-1)
    return [float((guess.numpy() == data["label"][test]).mean()) for guess in (by_classifier, by_concept)]


@pytest.mark.parametrize("seed", SEEDS)
def test_leaving_the_classifier_out_costs_names(seed):
    by_classifier, by_concept = accuracies(seed)
    assert by_classifier > by_concept and by_classifier > 0.65
