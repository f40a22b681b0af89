"""Fitted modules survive an interruption, events are readable while they happen."""

import json
import os
import signal
import subprocess
import sys
import time

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


def test_one_run_at_a_time(tmp_path):
    with Partial(tmp_path / "run") as kept:
        kept.put("pix", "a1", {"mean": torch.ones(2)})
        with pytest.raises(StateError, match="another run is writing here") as error, Partial(tmp_path / "run"):
            pass
        assert error.value.where == str(kept.directory) and "--out" in error.value.fix
        with Partial(tmp_path / "other"):
            pass
    with Partial(tmp_path / "run") as kept:  # a refused one takes nothing away, a done one leaves what was kept
        assert kept.get("pix", "a1") is not None


def test_removing_leaves_the_lock_to_the_last_and_the_next_locks_anew(tmp_path):
    with Partial(tmp_path / "run") as first:
        first.put("pix", "a1", {"mean": torch.ones(2)})
        first.remove()
        assert not first.directory.exists()
        with Partial(tmp_path / "run") as second:
            with pytest.raises(StateError), Partial(tmp_path / "run"):
                pass
            assert second.directory.exists()


def test_a_lock_on_a_file_that_is_gone_is_no_lock(tmp_path, monkeypatch):
    """Between opening and locking, the run that had the lock ends: the file is deleted, and a third may make it anew."""
    import fcntl

    first, late = Partial(tmp_path / "run"), Partial(tmp_path / "run")
    flock, calls = fcntl.flock, []

    def ends_just_now(handle, how):
        calls.append(handle)
        if len(calls) == 2:
            first.remove()
            first.__exit__(None, None, None)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", ends_just_now)
    with first, late:
        assert len(calls) == 3 and (late.directory / "lock").exists()
        with pytest.raises(StateError), Partial(tmp_path / "run"):
            pass


def test_a_killed_run_lets_go_though_what_it_forked_lives_on(tmp_path):
    script = """
import multiprocessing, sys, time
from serket.store import Partial
with Partial(sys.argv[1]):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""
    run = subprocess.Popen([sys.executable, "-c", script, tmp_path / "run"], stdout=subprocess.PIPE)
    child = int(run.stdout.readline())
    try:
        time.sleep(0.2)  # the child has closed its copy
        with pytest.raises(StateError), Partial(tmp_path / "run"):
            pass
        run.kill()
        run.wait()
        os.kill(child, 0)
        with Partial(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        run.kill()
        run.wait()
        run.stdout.close()
