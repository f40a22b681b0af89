"""What is embedded once is not embedded again: by another process, split or call, and whatever happens to the files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from serket.data import another_split, load
from serket.data.hashing import row_keys
from serket.embedding import Cache, cache_folder, filled
from serket.embedding import cache as module_of_cache
from serket.embedding.blocks import BLOCK_ROWS
from serket.errors import DataWarning, ShapeError
from serket.graph import load_graph
from serket.inputs import gather
from tests.embedding import encoders
from tests.embedding.encoders import GRAPH, asked, rows_asked, sets

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE", str(tmp_path / "cache"))
    asked.clear()
    return tmp_path / "cache"


def anew():
    """Forget what this process has in memory, as a new one would."""
    module_of_cache._of.cache_clear()
    asked.clear()


def seen(data, rows=None, weights=0):
    graph = GRAPH | {"modules": GRAPH["modules"] | {"eye": GRAPH["modules"]["eye"] | {"weights": weights}}}
    described = load_graph(graph)
    return gather(described, described.build(), data, rows, dtype=torch.float32)["eye"].values


def loaded(**changes):
    return load(sets() | changes, ["image", "touch"])


def files(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_a_second_run_embeds_nothing_and_other_splits_neither():
    data = loaded()
    first = [seen(data, data.train), seen(data, data.test)]
    assert rows_asked() == 40
    anew()
    other = another_split(loaded(), 3)
    again = [seen(data, data.train), seen(data, data.test)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    whole = torch.zeros(40, 3).index_put((torch.from_numpy(np.concatenate([data.train, data.test])),), torch.cat(first))
    assert torch.equal(seen(other, other.test), whole[other.test]) and not asked


def test_a_changed_row_and_changed_weights_embed_exactly_what_changed():
    seen(loaded())
    anew()
    images = sets()["image"]
    images[17, 3, 2, 1] ^= 1
    seen(loaded(image=images))
    assert [batch.tolist() for batch in asked] == [images[17:18].tolist()]
    anew()
    other = seen(loaded(), weights=1)
    assert rows_asked() == 40 and not torch.equal(other, seen(loaded(), weights=0))
    # The same bytes in another shape are other data.
    seen(load({"image": sets()["image"].reshape(40, 24), "touch": sets()["touch"]}, ["image", "touch"]))
    assert rows_asked() == 80


def test_rows_that_are_alike_are_embedded_once():
    images = sets()["image"]
    images[5:15] = images[2]
    values = seen(loaded(image=images))
    assert rows_asked() == 30 and all(torch.equal(values[2], values[row]) for row in range(5, 15))
    assert not torch.equal(values[2], values[3])


def test_off_is_memory_alone(folder, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE", "off")
    anew()
    seen(loaded())
    seen(loaded())
    assert rows_asked() == 40 and not folder.exists() and cache_folder() is None
    anew()
    seen(loaded())
    assert rows_asked() == 40


def test_the_platform_has_a_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SERKET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "serket"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder().name == "serket" and cache_folder().parent.name == "Caches"


@pytest.mark.parametrize("where", [0, 9, 0.5, -1, "cut", "empty"])
def test_a_damaged_file_is_removed_and_its_rows_are_embedded_again(folder, where):
    first = seen(loaded())
    (path,) = files(folder)
    data = bytearray(path.read_bytes())
    if where in ("cut", "empty"):
        data = data[: len(data) // 2 if where == "cut" else 0]
    else:
        data[int(where * len(data)) if isinstance(where, float) else where] ^= 1
    path.write_bytes(data)
    anew()
    with pytest.warns(DataWarning, match="is damaged and was removed"):
        again = seen(loaded())
    assert torch.equal(first, again) and rows_asked() == 40
    anew()
    assert torch.equal(first, seen(loaded())) and not asked


def test_nothing_is_left_in_the_way_of_who_cannot_write(folder):
    folder.write_text("a file")
    with pytest.warns(DataWarning, match="kept in memory only"):
        seen(loaded())
    seen(loaded())
    assert rows_asked() == 40


def test_many_small_calls_do_not_leave_many_files(folder):
    images = np.random.default_rng(1).integers(0, 200, (150, 4, 3, 2), dtype=np.uint8)
    data = load({"image": images, "touch": np.zeros((150, 2), "f4")}, ["image", "touch"])
    whole = torch.cat([seen(data, [row]) for row in range(150)])
    assert rows_asked() == 150 and len(files(folder)) <= 66
    anew()
    assert torch.equal(seen(data), whole) and not asked


def test_two_caches_over_one_folder_see_what_the_other_has_written(folder):
    eye, data = load_graph(GRAPH).build()["eye"], loaded()
    one, other = Cache(folder), Cache(folder)
    assert filled("eye", eye, data.subset(range(20)), "image", cache=one) == (20, 0, [])
    assert filled("eye", eye, data, "image", cache=other) == (20, 20, [])
    assert filled("eye", eye, data, "image", cache=one) == (0, 40, [])
    size = sum(path.stat().st_size for path in files(folder))
    assert other.clear() == size and filled("eye", eye, data, "image", cache=other) == (40, 0, [])
    assert not list(folder.rglob("*.part"))


def test_processes_at_once_leave_whole_files(folder):
    """Two processes embed the same rows at the same time; what they leave is whole, and a third embeds nothing."""
    code = "from tests.embedding.test_cache import *\nseen(loaded())\nprint(rows_asked())"
    run = [sys.executable, "-c", code]
    options = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(run, **options) for _ in range(2)]
    made = [int(process.communicate()[0]) for process in both]
    assert 40 <= sum(made) <= 80
    assert all(process.returncode == 0 for process in both)
    anew()
    seen(loaded())
    assert not asked


def test_an_interrupted_run_goes_on_where_it_was(monkeypatch):
    images = np.random.default_rng(1).integers(0, 200, (3 * BLOCK_ROWS, 4, 3, 2), dtype=np.uint8)
    data = load({"image": images, "touch": np.zeros((len(images), 2), "f4")}, ["image", "touch"])
    embed = encoders.Encoder.embed

    def interrupted(self, values):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return embed(self, values)

    monkeypatch.setattr(encoders.Encoder, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        seen(data)
    monkeypatch.setattr(encoders.Encoder, "embed", embed)
    anew()
    steps = []
    eye = load_graph(GRAPH).build()["eye"]
    told = filled("eye", eye, data, "image", report=lambda *step: steps.append(step[:3]))
    assert told == (BLOCK_ROWS, 2 * BLOCK_ROWS, []) and rows_asked() == BLOCK_ROWS
    assert steps == [("embed eye", 3 * BLOCK_ROWS, 3 * BLOCK_ROWS)]  # no bar for what was there


def test_keys_are_the_sums_they_say_they_are():
    array = np.random.default_rng(0).normal(size=(3, 2, 5)).astype("f4")
    mask, keys = (1 << 64) - 1, row_keys(array)

    def number(counter):
        z = (counter + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    for row, key in zip(array, keys, strict=True):
        words = np.frombuffer(row.tobytes(), "<u4").tolist()
        sums = [sum(number(4 * i + k) * w for i, w in enumerate(words)) & mask for k in range(4)]
        assert key.tolist() == [sums[0] >> 32 | sums[1] >> 32 << 32, sums[2] >> 32 | sums[3] >> 32 << 32]


def test_keys_tell_apart_what_weak_sums_do_not():
    """Signs are the highest bit of a word, where a product keeps one bit of the number; places and paddings count."""
    signs = 1 - 2.0 * ((np.arange(1 << 12)[:, None] >> np.arange(12)) & 1)
    assert len(np.unique(row_keys(signs.astype("f4")), axis=0)) == 1 << 12
    ones = np.eye(300, dtype=np.uint8)
    assert len(np.unique(row_keys(ones), axis=0)) == 300
    assert row_keys(ones[:, :7]).shape == (300, 2) and row_keys(ones[:0]).shape == (0, 2)


def test_keys_that_share_a_half_are_not_mistaken(tmp_path):
    space = Cache(tmp_path).space("x", np.dtype("u1"), (3,))
    keys = np.array([[1, 2], [1, 3], [4, 2]], dtype=np.uint64)
    space.put(keys[:1], np.ones((1, 2), "f4"))
    values, found = space.get(keys)
    assert found.tolist() == [True, False, False] and values[0].tolist() == [1, 1]


KEYS = np.unique(np.random.default_rng(0).integers(0, 2**63, (300, 2)).astype("u8"), axis=0)
VALUES = np.random.default_rng(1).normal(size=(300, 4)).astype("f4")


def opened(cache):
    return cache.space("x", np.dtype("u1"), (3,))


def put_singly(space, rows=range(65)):
    for row in rows:
        space.put(KEYS[row : row + 1], VALUES[row : row + 1])


def put_unmerged(space, patch, rows=range(65)):
    with patch.context() as meanwhile:
        meanwhile.setattr(module_of_cache, "MOST_SMALL", 1000)
        put_singly(space, rows)


def kept(space, rows=slice(65)):
    values, found = space.get(KEYS[rows])
    return values is not None and bool(found.all() and (values == VALUES[rows]).all())


def test_merging_into_a_file_that_is_there_keeps_it(tmp_path):
    space = opened(Cache(tmp_path))
    space.put(KEYS, VALUES)
    put_singly(space, range(64))
    assert len(files(tmp_path)) == 1 and kept(opened(Cache(tmp_path)), slice(300))


def test_nothing_is_lost_where_merging_cannot_be_written(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    put_unmerged(opened(cache), monkeypatch)
    with monkeypatch.context() as patch, pytest.warns(DataWarning, match="No space left"):
        patch.setattr(module_of_cache, "write_segment", full)
        assert kept(opened(cache))
    assert len(files(tmp_path)) == 65 and kept(opened(cache)) and kept(opened(Cache(tmp_path)))


def full(*_):
    raise OSError(28, "No space left on device")


def test_what_another_process_has_merged_is_found(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    space = opened(cache)
    put_unmerged(space, monkeypatch)
    opened(Cache(tmp_path))
    assert len(files(tmp_path)) == 1 and kept(opened(cache))
    put_unmerged(space, monkeypatch, range(70, 140))
    late, small = Cache(tmp_path), files(tmp_path)
    merge = module_of_cache.Space._merge

    def overtaken(self):
        for path in small:
            path.unlink()
        merge(self)

    monkeypatch.setattr(module_of_cache.Space, "_merge", overtaken)
    assert opened(late).get(KEYS)[0] is None and not files(tmp_path)


def test_processes_that_merge_at_once_lose_nothing(tmp_path):
    code = """import sys
from tests.embedding.test_cache import *
cache = Cache(Path(sys.argv[1]))
for row in range(int(sys.argv[2]), 300, 2):
    put_singly(opened(cache), [row, (7 * row) % 300])
assert len(opened(cache)._index.runs) < 10"""
    run = [[sys.executable, "-c", code, str(tmp_path), first] for first in "01"]
    both = [subprocess.Popen(one, cwd=ROOT) for one in run]
    assert [process.wait() for process in both] == [0, 0]
    assert kept(opened(Cache(tmp_path)), slice(300)) and len(files(tmp_path)) < 132


def test_rows_of_a_damaged_file_are_found_again_where_they_were_put_since(tmp_path):
    cache = Cache(tmp_path)
    opened(cache).put(KEYS, VALUES)
    files(tmp_path)[0].write_bytes(b"")
    with pytest.warns(DataWarning, match="is damaged"):
        assert not kept(opened(cache))
    opened(cache).put(KEYS[:200], VALUES[:200])
    assert all(kept(opened(cache), slice(200)) for _ in range(3))


def test_of_rows_put_twice_the_last_are_found():
    space = opened(Cache(None))
    space.put(KEYS, VALUES + 1)
    space.put(KEYS, VALUES)
    assert kept(space, slice(300))


def test_a_file_is_checked_once_however_many_there_are(tmp_path, monkeypatch):
    space = opened(Cache(tmp_path))
    for first in range(0, 300, 50):
        space.put(KEYS[first : first + 50], VALUES[first : first + 50])
    read, mapped = [], module_of_cache.mapped
    monkeypatch.setattr(module_of_cache, "mapped", lambda path: read.append(path) or mapped(path))
    for rows in np.random.default_rng(2).permutation(300).reshape(3, 100):
        assert kept(space, rows)
    assert sorted(read) == files(tmp_path) and len(read) == 6
    assert not any(part.flags.writeable or part.flags.owndata for part in space._maps.values())


def test_memory_alone_merges_too_and_keeps_the_last(monkeypatch):
    cache = Cache(None)
    for row in range(300):
        put_singly(opened(cache), [row])
    space = opened(cache)
    assert kept(space, slice(300)) and len(space._held) <= 65
    monkeypatch.setattr(module_of_cache, "ALONE_BYTES", 4000)
    space.put(KEYS[:200], VALUES[:200])
    assert kept(space, slice(200)) and not kept(space, slice(300))
    assert space._bytes == sum(part.nbytes for part in space._held.values()) <= 4000


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 2), torch.zeros(40), torch.zeros(40, 2).long()], ids=["rows", "flat", "whole"]
)
def test_what_is_no_embedding_is_refused(monkeypatch, wrong):
    monkeypatch.setattr(encoders.Encoder, "embed", lambda self, values: wrong)
    with pytest.raises(ShapeError, match="embed returned something else"):
        seen(loaded())
