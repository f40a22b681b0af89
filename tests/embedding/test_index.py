"""Where rows lie: the index against a dictionary, in memory and in files; memory does not grow with what is filled."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serket.data import room as module_of_room
from serket.embedding import index as module_of_index
from serket.embedding.index import Index

ROOT = Path(__file__).parents[2]
HEADS = 12  # first halves of keys, so few that they meet
SEGMENT = st.lists(st.tuples(st.integers(0, HEADS), st.just(7)), min_size=1, max_size=9, unique=True)
STEPS = st.lists(st.one_of(SEGMENT, st.sets(st.integers(0, 9), min_size=1)), max_size=25)


@pytest.mark.parametrize("where", ["memory", "file"])
@given(steps=STEPS)
def test_the_last_put_is_found_and_what_is_forgotten_is_not(where, steps, tmp_path_factory):
    """A segment replaces earlier ones key by key; where the last is forgotten no wrong row is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module_of_index, "STEP", 4)
        patch.setattr(module_of_room, "IN_MEMORY_BYTES", 1 << 22 if where == "memory" else 0)
        index, truth, number, gone = Index(tmp_path_factory.getbasetemp()), {}, 0, {-2}
        for step in steps:
            if isinstance(step, set):
                index.forget(step)
                gone |= {one for one in step if one < number}
                truth = {key: place for key, place in truth.items() if place[0] not in step}
            else:
                index.add(np.array(step, dtype=np.uint64), number)
                truth |= {key: (number, row) for row, key in enumerate(step)}
                number += 1
            keys = [(head, tail) for head in range(HEADS + 1) for tail in (7, 8)]
            segments, rows = index.find(np.array(keys, dtype=np.uint64))
            found = dict(zip(keys, zip(segments.tolist(), rows.tolist(), strict=True), strict=True))
            assert {key: place for key, place in found.items() if key in truth} == truth
            assert gone.isdisjoint(segments.tolist())
            assert all(found[key][0] == -1 for key in keys if key[1] == 8)
            assert sum(run.shape[1] for run in index.runs) <= 2 * (HEADS + 1) + 9 * len(index.runs)


def test_there_is_room_in_a_file_and_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module_of_room, "IN_MEMORY_BYTES", 0)
    kept, alone = module_of_room.room((5, 2), tmp_path), module_of_room.room((5, 2), tmp_path / "nowhere")
    assert not kept.flags.owndata and alone.flags.owndata and not list(tmp_path.iterdir())
    kept[1:, 1] = alone[1:, 1] = 2**64 - 1
    assert kept.tolist() == alone.tolist() == [[0, 0]] + [[0, 2**64 - 1]] * 4


CHILD = """
import sys
from pathlib import Path
import numpy as np
import torch
from serket.data import load
from serket.embedding import Cache, filled
from tests.embedding.encoders import Encoder

torch.set_num_threads(1)
Encoder.embed = lambda self, values: values[:, :8].clone()

def owned():  # what is mapped from a file is not the process's own
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

def grown(folder, rows):
    folder.mkdir()
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, 200))
    x[:, 0] = np.arange(rows)
    del x
    data, cache = load(folder, ["x"]), Cache(folder / "cache")
    before, most = owned(), []
    filled("x", Encoder({}), data, "x", cache=cache, report=lambda *_: most.append(owned()))
    assert len(list((folder / "cache").rglob("*.safetensors"))) <= 65 + rows // 65_000
    return max(most) - before

few, many = grown(Path(sys.argv[1]) / "few", 100_000), grown(Path(sys.argv[1]) / "many", 500_000)
print(many - few)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory a process owns is told by Linux only")
def test_memory_does_not_grow_with_the_rows_that_are_embedded(tmp_path):
    run = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 8, done.stdout  # MB, of 400 000 rows: 20 bytes a row at most
