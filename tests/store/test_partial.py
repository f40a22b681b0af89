"""Fitted modules survive an interruption, events are readable while they happen."""

import json

import pytest
import torch

from serket.errors import StateError
from serket.store import Events, Partial, fingerprint


def test_a_state_comes_back_for_its_fingerprint_only(tmp_path):
    partial = Partial(tmp_path / "run")
    state = {"mean": torch.linspace(0, 1, 6).reshape(2, 3).t(), "steps": torch.tensor(3)}
    assert partial.get("pix", "a1") is None
    partial.put("pix", "a1", state)
    assert partial.get("pix", "b2") is None and partial.get("fou", "a1") is None
    back = Partial(tmp_path / "run").get("pix", "a1")
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    assert partial.directory == tmp_path / "run.partial"
    partial.remove()
    partial.remove()
    assert partial.get("pix", "a1") is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".sha256"])
def test_every_flipped_bit_is_refused(tmp_path, suffix):
    partial = Partial(tmp_path / "run")
    partial.put("pix", "a1", {"mean": torch.ones(2)})
    path = partial.directory / f"pix.a1{suffix}"
    data = path.read_bytes()
    for place in range(8 * len(data)):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(StateError, match="delete it"):
            partial.get("pix", "a1")


def test_a_state_without_its_hash_is_not_finished(tmp_path):
    partial = Partial(tmp_path / "run")
    partial.put("pix", "a1", {"mean": torch.ones(2)})
    (partial.directory / "pix.a1.sha256").unlink()
    assert partial.get("pix", "a1") is None


def test_fingerprints_depend_on_every_part_and_on_no_order():
    parts = {"type": "vae", "options": {"hidden": [256], "rate": 1e-3}, "dtype": torch.float32}
    again = {"dtype": torch.float32, "options": {"rate": 1e-3, "hidden": (256,)}, "type": "vae"}
    assert fingerprint(**parts) == fingerprint(**again)
    assert fingerprint(**parts) != fingerprint(**{**parts, "options": {"hidden": [255], "rate": 1e-3}})
    assert len(fingerprint(seed=0)) == 16


def test_events_are_lines_with_times(tmp_path):
    events = Events(tmp_path / "run.partial" / "events.jsonl")
    events.append("start", seed=0)
    events.append("epoch", elbo=torch.tensor(1.5), bad=float("inf"))
    lines = [json.loads(text) for text in events.path.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "epoch"]
    assert lines[1]["elbo"] == 1.5 and lines[1]["bad"] is None and lines[0]["time"].endswith("+00:00")
