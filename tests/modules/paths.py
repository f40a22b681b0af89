"""Every path of a Markov chain, one by one: what forward-backward is held against."""

import itertools

import torch


def paths(states, length):
    return torch.tensor(list(itertools.product(range(states), repeat=length))).reshape(-1, length)


def weights(initial, transitions, messages):
    """p(path) times the messages along it, ``(K^T,)``; probabilities ``(K,)``, ``(K, K)``, logits ``(T, K)``."""
    every = paths(len(initial), len(messages))
    found = initial[every[:, 0]]
    for t in range(1, len(messages)):
        found = found * transitions[every[:, t - 1], every[:, t]]
    for t in range(len(messages)):
        found = found * messages[t].exp()[every[:, t]]
    return every, found


def marginal(every, weight, place, states):
    return torch.stack([weight[every[:, place] == k].sum() for k in range(states)])


def reply(initial, transitions, messages, place):
    """What all rows but one say of it: unnormalised, ``(K,)``."""
    others = messages.clone()
    others[place] = 0
    return marginal(*weights(initial, transitions, others), place, len(initial))


def pair(every, weight, place, states):
    """p(z_place, z_place + 1 | all), ``(K, K)``."""
    found = torch.zeros(states, states, dtype=torch.float64)
    found.index_put_((every[:, place], every[:, place + 1]), weight, accumulate=True)
    return found / weight.sum()


def evidence(initial, transitions, messages):
    return weights(initial, transitions, messages)[1].sum().log()
