"""``serket embed``: what frozen encoders make of the data, ahead of time."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.embedding.encoders import UNREAD, sets

GRAPH = """\
serket: 1
data: things.npz
variables:
  z: {family: gaussian, size: 3}
modules:
  eye: {type: test_encoder, data: image, ports: {latent: z}}
"""


@pytest.fixture
def things(tmp_path, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE", str(tmp_path / "cache"))
    shutil.copy(Path(__file__).parents[1] / "embedding" / "encoders.py", tmp_path / "encoder_plugin.py")
    (tmp_path / "things.yaml").write_text(GRAPH)
    arrays = sets()
    arrays["image"][[3, 9], 0, 0, 0] = UNREAD
    np.savez(tmp_path / "things.npz", **arrays)
    return tmp_path


PLUGIN = ("--plugin", "encoder_plugin.py")


def test_rows_are_embedded_once(serket, things):
    status, out, err = serket("embed", "things.yaml", *PLUGIN)
    assert status == 0, err
    assert out == "eye: 40 rows of image embedded, 0 were there; NaN or Inf in 2 (3, 9)\nkept in cache/embeddings\n"
    assert "embed eye: 40 steps" in err
    assert serket("embed", "things.yaml", *PLUGIN)[1].startswith("eye: 0 rows of image embedded, 40 were there")
    status, out, err = serket("infer", "things.yaml", *PLUGIN)
    assert status == 0 and "warning: eye: NaN or Inf from the encoder in 2 of 40 rows of image (3, 9)" in err
    told = json.loads(serket("embed", "things.yaml", "--json", "--clear", *PLUGIN)[1])
    assert told["modules"] == {"eye": {"key": "image", "embedded": 40, "there": 0, "unread": [3, 9]}}
    assert told["removed_bytes"] > 1000
    status, out, _ = serket("embed", "--clear")
    assert status == 0 and out.startswith("removed 0.00") and not (things / "cache" / "embeddings").exists()


def test_mistakes(serket, things, monkeypatch):
    status, _, err = serket("embed")
    assert status == 2 and "no graph is named" in err
    (things / "plain.yaml").write_text(GRAPH.replace("test_encoder", "vae"))
    status, _, err = serket("embed", "plain.yaml")
    assert status == 2 and "the graph has no frozen encoder that reads data" in err and "found: eye: vae" in err
    monkeypatch.setenv("SERKET_CACHE", "off")
    status, _, err = serket("embed", "things.yaml", *PLUGIN)
    assert status == 2 and "SERKET_CACHE is off" in err
