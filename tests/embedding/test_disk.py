"""Large arrays stay on disk: mapped from a folder or an uncompressed .npz, and read block by block."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serket.data import load, source
from serket.errors import DataError

ROOT = Path(__file__).parents[2]
G = np.random.default_rng(0)
IMAGE = G.integers(0, 255, (30, 4, 3, 2), dtype=np.uint8)
TOUCH = G.normal(size=(30, 5))
TOUCH[4, 2] = np.nan


@pytest.fixture(autouse=True)
def all_is_large(monkeypatch):
    monkeypatch.setattr(source, "MAPPED_BYTES", 1)


def stored(folder, kind):
    if kind == "folder":
        (folder / "d").mkdir()
        for name, array in {"image": IMAGE, "touch": TOUCH, "row_id": np.arange(30) + 5}.items():
            np.save(folder / "d" / f"{name}.npy", array)
        return folder / "d"
    save = np.savez if kind == "stored" else np.savez_compressed
    save(folder / "d.npz", image=IMAGE, touch=TOUCH, row_id=np.arange(30) + 5)
    return folder / "d.npz"


@pytest.mark.parametrize("kind", ["folder", "stored", "compressed"])
def test_data_are_the_same_wherever_they_lie(tmp_path, kind):
    data = load(stored(tmp_path, kind), ["image", "touch"])
    here = load({"image": IMAGE, "touch": TOUCH, "row_id": np.arange(30) + 5}, ["image", "touch"])
    assert isinstance(data.arrays["image"], np.memmap) == (kind != "compressed")
    assert data.sha256 == here.sha256 and data.quarantined == {"touch": [4]}
    for key in ("image", "touch"):
        one, other = data.evidence(key), here.evidence(key)
        assert one.values.equal(other.values) and one.observed.equal(other.observed)
        assert (data.row_keys(key, [7, 2, 7]) == here.row_keys(key, [7, 2, 7])).all()
    raw = data.raw("image", [3, 1])
    assert (raw == IMAGE[[3, 1]]).all() and raw.flags.writeable and not isinstance(raw, np.memmap)


def test_a_file_in_another_order_is_read_as_it_is_meant(tmp_path):
    np.savez(tmp_path / "d.npz", image=np.asfortranarray(IMAGE), touch=TOUCH.astype(">f8"))
    data = load(tmp_path / "d.npz", ["image", "touch"])
    assert (data.arrays["image"] == IMAGE).all() and not isinstance(data.arrays["image"], np.memmap)
    assert data.evidence("touch").values[0].tolist() == TOUCH[0].astype("f4").tolist()


def test_objects_in_a_folder_and_folders_of_nothing_are_refused(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="no data set"):
        load(tmp_path / "d", ["image"])
    np.save(tmp_path / "d" / "image.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        load(tmp_path / "d", ["image"])
    (tmp_path / "d" / "image.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "d", ["image"])
    (tmp_path / "cut").mkdir()
    np.save(tmp_path / "cut" / "image.npy", IMAGE)
    whole = (tmp_path / "cut" / "image.npy").read_bytes()
    (tmp_path / "cut" / "image.npy").write_bytes(whole[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "cut", ["image"])


CHILD = """
import sys, threading, time
from pathlib import Path
import numpy as np
import torch
from serket.fitting import fit
from serket.evaluate import evaluate
from tests.embedding.encoders import GRAPH, Encoder

torch.set_num_threads(1)
Encoder.embed = lambda self, values: values.flatten(1)[:, 1:4].float()

def owned():  # what is mapped from a file is not the process's own
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

def peak(folder, rows):
    folder.mkdir()
    image = np.lib.format.open_memmap(folder / "image.npy", "w+", np.uint8, (rows, 256, 512))  # nearly all a hole
    image[:, 0, :4] = np.arange(rows, dtype=np.uint32)[:, None].view(np.uint8)
    image[:, 0, 0] %= 200
    np.save(folder / "touch.npy", np.random.default_rng(0).normal(size=(rows, 2)).astype("f4"))
    np.save(folder / "label.npy", np.arange(rows) % 2)
    del image
    most, ends = [owned()], threading.Event()
    def watch():
        while not ends.wait(0.002):
            most.append(owned())
    watcher = threading.Thread(target=watch)
    watcher.start()
    model = fit(GRAPH | {"data": str(folder)}, workers=1)
    evaluate(model, model.dataset())
    model.infer(str(folder))
    ends.set()
    watcher.join()
    return max(most)

few, many = peak(Path(sys.argv[1]) / "few", 400), peak(Path(sys.argv[1]) / "many", 1400)
print(many - few)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory a process owns is told by Linux only")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Fitting, measuring and inferring from 180 MB on disk takes no more than from 50 MB."""
    run = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 25, done.stdout  # MB, of 130 more that are read
