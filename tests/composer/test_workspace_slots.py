"""Shared slots: the attention, the gates and the broadcast of Goyal et al. (2022), by hand; and memory over time."""

import math

import pytest
import torch
import torch.nn.functional as F

from serket.composer.workspace.slots import SlotSpace, attention
from serket.composer.workspace.time import Scene, faded, remembered
from tests.composer.problems import generator, random
from tests.composer.test_workspace_losses import readings

ROWS, SIZES, SHARED, WIDTH, SLOTS = 5, (3, 2, 4), 3, 4, 3
KEEP = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]]).bool()


def space(top=2, views=3):
    made = SlotSpace(SIZES[:views], SHARED, 5, SLOTS, top, WIDTH)
    g = generator(0)
    weights = made.initial(torch.zeros((), dtype=torch.float64), g)
    return made, {n: v + 0.3 * torch.randn(v.shape, generator=g, dtype=v.dtype) for n, v in weights.items()}


def written(rows=ROWS, views=3):
    g = generator(1)
    tokens, memory = [random(g, rows, WIDTH) for _ in range(views)], random(g, rows, SLOTS, WIDTH)
    return tokens, torch.rand(rows, views, generator=g, dtype=torch.float64), memory


def test_all_winners_are_the_soft_variant():
    scores = random(generator(2), ROWS, SLOTS, 3)
    soft = torch.where(KEEP.unsqueeze(1), scores, -torch.inf).softmax(-1).nan_to_num()
    for top in (3, 7):
        torch.testing.assert_close(attention(scores, KEEP, top), soft, rtol=1e-14, atol=0)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_rows_of_the_attention_sum_to_one_over_the_winners(top):
    scores = random(generator(2), ROWS, SLOTS, 3)
    shares = attention(scores, KEEP, top)
    heard = KEEP.any(1)
    torch.testing.assert_close(shares.sum(-1), heard.double().unsqueeze(1).expand(-1, SLOTS), rtol=0, atol=1e-15)
    assert int((shares > 0).sum(-1).max()) == top and not bool((shares > 0)[~KEEP.unsqueeze(1).expand_as(shares)].any())
    # Renormalised over the winners: two winners share as if nobody else had bid.
    best = torch.where(KEEP.unsqueeze(1), scores, -torch.inf).topk(top, -1)
    expected = torch.zeros_like(scores).scatter(-1, best.indices, best.values.softmax(-1).nan_to_num())
    torch.testing.assert_close(shares, expected, rtol=1e-14, atol=0)


def test_writing_by_hand():
    made, w = space(top=1)
    tokens, strength, memory = written()
    found = made.write(w, tokens, strength, KEEP, memory)
    for n in range(ROWS):
        here = [m for m in range(3) if KEEP[n, m]]
        loud = sum(tokens[m][n].relu() for m in here) / max(1, len(here)) if here else torch.zeros(WIDTH).double()
        for slot in range(SLOTS):
            old, update = memory[n, slot], torch.zeros(WIDTH).double()
            if here:  # one winner: a weak message bids less, by the log of its strength
                query = old @ w["write.query"]
                bids = [float(query @ (tokens[m][n] @ w["write.key"])) / math.sqrt(WIDTH) + math.log(strength[n, m])
                        for m in here]  # fmt: skip
                update = tokens[here[max(range(len(here)), key=bids.__getitem__)]][n] @ w["write.value"]
            new = old + update
            new = (new - new.mean()) / (new.var(correction=0) + 1e-5).sqrt()
            hidden = F.gelu(w["mix.0.weight"] @ new + w["mix.0.bias"])
            new = new + w["mix.1.weight"] @ hidden + w["mix.1.bias"]
            gates = (loud @ w["gate.views"] + old.tanh() @ w["gate.memory"] + w["gate.bias"]).sigmoid()
            torch.testing.assert_close(found[n, slot], gates[:WIDTH] * new.tanh() + gates[WIDTH:] * old)
    state = made.gather(w, tokens, strength, KEEP, memory)
    torch.testing.assert_close(state, found.flatten(1) @ w["state.0.weight"].T + w["state.0.bias"])
    blank = made.gather(w, tokens, strength, KEEP)
    torch.testing.assert_close(blank, made.gather(w, tokens, strength, KEEP, w["slots"].expand(ROWS, -1, -1)))


def test_broadcasting_by_hand():
    made, w = space()
    state = random(generator(3), ROWS, SHARED)
    for view in range(3):
        found = made.scatter(w, state, view)
        for n in range(ROWS):
            slots = (w["broadcast.0.weight"] @ state[n] + w["broadcast.0.bias"]).reshape(SLOTS, WIDTH)
            query = w["query"][view] @ w["read.query"]
            shares = torch.stack([(slot @ w["read.key"]) @ query / math.sqrt(WIDTH) for slot in slots]).softmax(0)
            heard = w["query"][view] + sum(
                share * (s @ w["read.value"]) for share, s in zip(shares, slots, strict=True)
            )
            hidden = F.gelu(w[f"decoder.{view}.0.weight"] @ heard + w[f"decoder.{view}.0.bias"])
            torch.testing.assert_close(found[n], w[f"decoder.{view}.1.weight"] @ hidden + w[f"decoder.{view}.1.bias"])
    many = made.scatter(w, state.expand(2, ROWS, SHARED), 0)
    torch.testing.assert_close(many[1], made.scatter(w, state, 0))


@pytest.mark.parametrize("top", [1, 2, 3])
def test_views_may_come_in_any_order(top):
    made, w = space(top)
    tokens, strength, memory = written()
    order = [2, 0, 1]
    moved = made.write(w, [tokens[m] for m in order], strength[:, order], KEEP[:, order], memory)
    torch.testing.assert_close(moved, made.write(w, tokens, strength, KEEP, memory), rtol=0, atol=1e-6)
    shares = made.shares(w, [tokens[m] for m in order], strength[:, order], KEEP[:, order], memory)
    torch.testing.assert_close(shares, made.shares(w, tokens, strength, KEEP, memory)[..., order], rtol=0, atol=1e-6)
    # Slots, too.
    turned = made.write(w, tokens, strength, KEEP, memory[:, [1, 2, 0]])
    torch.testing.assert_close(turned, made.write(w, tokens, strength, KEEP, memory)[:, [1, 2, 0]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_absent_is_removed_to_the_bit(top):
    tokens, strength, memory = written()
    keep = KEEP & torch.tensor([True, False, True])
    made, w = space(top)
    planted = [torch.where(keep[:, m : m + 1], token, torch.nan) for m, token in enumerate(tokens)]
    noisy = torch.where(keep, strength, torch.nan)
    with_it = made.gather(w, planted, noisy, keep, memory)
    without = made.gather(w, [tokens[0], tokens[2]], strength[:, [0, 2]], keep[:, [0, 2]], memory)
    assert torch.equal(with_it, without) and bool(with_it.isfinite().all())
    loss = made.gather({n: v.requires_grad_() for n, v in w.items()}, planted, strength, keep, memory).sum()
    loss.backward()
    assert all(bool(v.grad.isfinite().all()) for v in w.values() if v.grad is not None)


LENGTHS = torch.tensor([3, 1, 2])


def remembering(detach=False, tokens=None):
    made, w = space()
    given, strength, _ = written(6)
    keep = torch.ones(6, 3, dtype=torch.bool)
    return made, w, remembered(made, w, tokens or given, strength, keep, LENGTHS, detach), given, strength, keep


def test_slots_go_from_frame_to_frame_of_a_sequence():
    made, w, memory, tokens, strength, keep = remembering()
    starts, row = [0, 3, 4], 0
    for start, length in zip(starts, LENGTHS.tolist(), strict=True):
        slots = w["slots"].unsqueeze(0)
        for row in range(start, start + length):
            torch.testing.assert_close(memory[row : row + 1], slots)
            one = slice(row, row + 1)
            slots = made.write(w, [token[one] for token in tokens], strength[one], keep[one], slots)
    assert row == 5 and not torch.allclose(memory[1], memory[0])


@pytest.mark.parametrize("detach", [False, True])
def test_detach_keeps_gradients_inside_a_frame(detach):
    tokens = [token.requires_grad_() for token in written(6)[0]]
    made, w, memory, _, strength, keep = remembering(detach, tokens)
    state = made.gather(w, tokens, strength, keep, memory)
    grads = torch.autograd.grad(state[2].sum(), tokens)
    reached = torch.stack([grad.abs().sum(1) for grad in grads]).sum(0) > 0
    assert reached.tolist() == [not detach, not detach, True, False, False, False]


def test_what_was_said_fades():
    strength = torch.rand(6, 2, generator=generator(4), dtype=torch.float64)
    past = faded(strength, LENGTHS, torch.tensor(0.5).double())
    expected = torch.zeros(6, 2).double()
    expected[1], expected[2], expected[5] = strength[0] / 2, strength[1] / 2 + strength[0] / 4, strength[4] / 2
    torch.testing.assert_close(past, expected)
    assert faded(strength[:0], LENGTHS[:0], torch.tensor(0.5)).shape == (0, 2)


def test_a_scene_hears_now_what_is_kept_and_before_what_was_there():
    made, w = space()
    present = torch.ones(6, 3, dtype=torch.bool)
    present[1, 0] = False
    scene = Scene.of(made, w, readings(rows=6, present=present), LENGTHS)
    keep, fading = torch.tensor([True, True, False]), torch.tensor(0.5).double()
    heard = scene.heard(keep, fading)
    assert heard[1, 0] == scene.strength[0, 0] / 2 and heard[0, 2] == 0 and heard[1, 2] == scene.strength[0, 2] / 2
    still = Scene.of(made, w, readings(rows=6, present=present), None)
    assert bool((still.heard(keep, fading)[:, 2] == 0).all()) and still.memory is None
