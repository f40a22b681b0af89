"""A stranger's module: written, tested by the contract suite outside the repository, and run by --plugin."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serket import load

ROOT = str(Path(__file__).parents[2])  # the code under test, wherever the installed one is
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ROOT}


def test_the_template_keeps_the_contract_and_runs(serket, tmp_path):
    status, out, err = serket("new-module", "balance_scale", "--folder", "mine")
    assert status == 0 and "mine/balance_scale.py" in out, err
    folder = tmp_path / "mine"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 30, done.stdout
    g = np.random.default_rng(0)
    z = g.normal(size=(4000, 2))
    readings = {"left": z + 2 + 0.5 * g.normal(size=z.shape), "right": z - 1 + 0.3 * g.normal(size=z.shape)}
    np.savez(tmp_path / "d.npz", **readings)
    run = ("run", "mine/example.yaml", "--data", "d.npz", "--plugin", "mine/balance_scale.py", "--out", "r", "--quiet")
    status, _, err = serket(*run)
    assert status == 0, err
    state = load(tmp_path / "r").modules["left"].state()
    np.testing.assert_allclose(state["offset"].numpy(), [2, 2], atol=0.1)
    np.testing.assert_allclose(state["variance"].numpy(), [0.25, 0.25], atol=0.1)


def test_the_suite_catches_a_module_that_counts_its_prior(serket, tmp_path):
    assert serket("new-module", "posterior", "--folder", "mine")[0] == 0
    file = tmp_path / "mine" / "posterior.py"
    text = file.read_text()
    wrong = text.replace("{port: message for port in asked}", "{port: message * above for port in asked}")
    assert wrong != text
    file.write_text(wrong)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "echo"]
    done = subprocess.run(command, cwd=file.parent, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "2 failed" in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["Thermo-meter", "vae", "class", "1st"])
def test_names_that_cannot_be_are_refused(serket, tmp_path, name):
    status, _, err = serket("new-module", name)
    assert status == 2 and "fix:" in err and not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(serket, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("")
    status, _, err = serket("new-module", "scale", "--folder", "mine")
    assert (
        status == 2 and "something stands there" in err and [p.name for p in (tmp_path / "mine").iterdir()] == ["notes"]
    )
