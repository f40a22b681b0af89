"""The command line in this process: (status, standard output, standard error)."""

import re
import sys
import warnings

import pytest

from serket import registry
from serket.cli import main


@pytest.fixture
def serket(monkeypatch, capsys, tmp_path):
    """Run ``serket ARGS`` in an empty folder, 80 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    registry.registered("module")
    monkeypatch.setattr(
        registry,
        "_CLASSES",
        {key: cls for key, cls in registry._CLASSES.items() if cls.__module__.startswith("serket.")},
    )  # other tests' types stay away, and plugins in their test

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["serket", *map(str, args)])
        status = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                main()
            except SystemExit as stop:
                status = stop.code or 0
        out, err = capsys.readouterr()
        folder = re.escape(str(tmp_path))
        out, err = (re.sub(folder, ".", re.sub(f"{folder}/", "", text)) for text in (out, err))
        return status, out, err

    return call


TINY = """\
serket: 1
data: tiny.npz
variables:
  z_a: {family: gaussian, size: 2}
  z_b: {family: gaussian, size: 3}
  shared: {family: gaussian, size: 2}
  kind: {family: categorical, size: 2}
modules:
  a: {type: vae, data: a, ports: {latent: z_a}, hidden: [8], fit: {epochs: 3}}
  b: {type: vae, data: b, ports: {latent: z_b}, hidden: [8], fit: {epochs: 3}}
  concepts: {type: gmm, ports: {component: kind, observation: shared}, fit: {sweeps: 20, restarts: 2}}
composers:
  body: {type: linear_gaussian, ports: {shared: shared, views: [z_a, z_b]}, private: 1}
"""
RAIN = """\
serket: 1
variables:
  rain: {family: categorical, size: 2, prior: [0.8, 0.2]}
  wet:  {family: categorical, size: 2}
modules:
  lawn:   {type: table, ports: {given: [rain], child: wet}, values: [[0.9, 0.1], [0.2, 0.8]]}
  sensor: {type: table, ports: {given: [wet]}, data: reading, values: [[0.95, 0.05], [0.1, 0.9]]}
"""
POSITION = """\
serket: 1
variables:
  x: {family: gaussian, size: 2, prior: {mean: [0, 0], covariance: [[1, 0], [0, 1]]}}
modules:
  gps:   {type: linear_gaussian, ports: {given: x}, data: gps,   matrix: [[1, 0]], noise: [[0.5]]}
  wheel: {type: linear_gaussian, ports: {given: x}, data: wheel, matrix: [[0, 1]], noise: [[0.1]]}
"""
