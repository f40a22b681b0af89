"""Every example runs, as a reader would run it, and prints what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, tmp_path):
    if path.stem == "senses":
        for package in ("efficientnet_lite_pytorch", "openwakeword", "transformers"):
            pytest.importorskip(package, reason="the extra 'senses' is not installed")
    done = subprocess.run([sys.executable, "-W", "error", path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2 and not list(tmp_path.iterdir())


def test_there_are_examples():
    assert EXAMPLES
