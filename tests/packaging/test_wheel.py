"""The wheel holds all it needs, and nothing of it lands outside ``serket``."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        path, copy = ROOT / name, source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_file():
            copy.write_bytes(path.read_bytes())
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True, cwd=folder
    )
    (built,) = folder.glob("*.whl")
    return built


def test_everything_lives_in_serket(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert wheel.name.startswith("serket_perception-") and {t for t in tops if not t.endswith(".dist-info")} == {
        "serket"
    }
    for name in ("modules/vae.py", "graphs/digits.yaml", "data/digits.npz", "data/digits.md", "py.typed", "cli/app.py"):
        assert f"serket/{name}" in names


def test_installed_elsewhere_it_runs(wheel, tmp_path):
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*PIP, "install", "--no-deps", "--target", target, wheel], check=True)
    script = (
        "import serket, serket.modules, sys\n"
        "assert str(sys.argv[1]) in serket.__file__ and str(sys.argv[1]) in serket.modules.__file__\n"
        "try:\n    import modules\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit('a top-level modules')\n"
        "graph = serket.load_graph('digits')\n"
        "graph.build()\n"
        "from serket.inputs import dataset_for\n"
        "print(dataset_for(graph, None).rows)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        cwd=empty,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(target)},
    )
    assert done.returncode == 0 and done.stdout.strip() == "2000", done.stderr


@pytest.mark.slow
def test_installed_elsewhere_it_runs_the_demo(wheel, tmp_path):
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*PIP, "install", "--no-deps", "--target", target, wheel], check=True)
    command = [sys.executable, "-m", "serket.cli", "run", "digits"]
    # One thread: two that wait for each other on a busy machine take many times as long.
    env = {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert (empty / "runs/digits/figures/imagined.png").is_file() and "fou+kar+pix" in done.stdout
