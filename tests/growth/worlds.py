"""Three senses of things of three kinds, the third in half of the rows; small graphs over them."""

import numpy as np

ROWS, KINDS = 300, 3


def senses(seed=0, rows=ROWS):
    """``a`` tells kinds 0 and 1 apart from 2, ``b`` tells 0 apart from the others, ``c`` tells all."""
    g = np.random.default_rng(seed)
    label = g.integers(KINDS, size=rows)
    kinds = {"a": [0, 0, 1], "b": [0, 1, 1], "c": [0, 1, 2]}
    arrays = {}
    for key, of in kinds.items():
        centres = 3 * g.normal(size=(KINDS, 6))
        arrays[key] = (centres[np.array(of)[label]] + g.normal(size=(rows, 6))).astype("f4")
    mask = np.ones(rows, bool)
    mask[: rows // 2 : 2] = False
    split = {"train": np.arange(rows * 2 // 3), "test": np.arange(rows * 2 // 3, rows)}
    return {**arrays, "c_mask": mask, "label": label, **split}


VAE = "hidden: [16], fit: {epochs: 40, batch: 32, learning_rate: 5.0e-3}"


def graph(composer="{type: linear_gaussian, ports: {shared: shared, views: [z_a, z_b]}, private: 1}", extra=""):
    return f"""\
serket: 1
data: things.npz
variables:
  z_a: {{family: gaussian, size: 2}}
  z_b: {{family: gaussian, size: 2}}
  shared: {{family: gaussian, size: 2}}
  kind: {{family: categorical, size: 3}}
modules:
  a: {{type: vae, data: a, ports: {{latent: z_a}}, {VAE}}}
  b: {{type: vae, data: b, ports: {{latent: z_b}}, {VAE}}}
  concepts: {{type: gmm, ports: {{component: kind, observation: shared}}, fit: {{sweeps: 20, restarts: 2}}}}
composers:
  body: {composer}
{extra}"""


SENSE = f"""\
variables:
  z_c: {{family: gaussian, size: 3}}
modules:
  c: {{type: vae, data: c, ports: {{latent: z_c}}, {VAE}}}
composers:
  body: {{ports: {{views: [z_a, z_b, z_c]}}}}
"""
OTHER = """\
variables:
  z_b: {family: gaussian, size: 3}
modules:
  b: {type: vae, data: c, ports: {latent: z_b}, hidden: [16], fit: {epochs: 40, batch: 32, learning_rate: 5.0e-3}}
"""
