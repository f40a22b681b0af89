"""Episodes: a gripper looks at, grasps, lifts and shakes an object, and what its sensors say meanwhile."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serket.data.tabletop.objects import CATEGORIES, draw
from serket.data.tabletop.scene import scene
from serket.errors import not_installed

__all__ = ["EPISODE_S", "episode"]

EPISODE_S = 4.0
STEP_MS, SAMPLE_MS = 2, 10  # of the physics, and between readings of forces and joints
PIXELS = 64
DEPTH_M = (0.15, 0.65)  # the range of the 8 bits of depth

Array = NDArray[Any]

_NOISE = np.repeat(np.array([0.03, 0.0005, 0.03, 0.0005, 0.0002, 0.002, 0.03], np.float32), [3, 3, 3, 3, 5, 5, 5])


def episode(seed: int, number: int, *, test: bool = False, frames: Collection[int] | None = None) -> dict[str, Any]:
    """Record one episode of four seconds; the same for the same seed and number.

    It looks for 0.8 s, closes its fingers until 1.6 s with 6 N, lifts by 6 cm until 2.3 s, holds with 4 N, and shakes
    from 2.9 s on, to and fro by 2 cm, three times a second.

    Args:
        seed: of the data set.
        number: of the episode; its category is ``number`` modulo 20.
        test: of the objects for testing (:func:`serket.data.tabletop.objects.draw`).
        frames: which pictures to take, of 120; all by default.

    Returns:
        ``camera`` ``(F, 64, 64, 4)`` uint8, red, green, blue and depth (15 to 65 cm), and ``camera_stamp_ns``, 30 Hz;
        ``touch`` ``(400, 12)`` float32, per finger the force on it (N) and its torque (Nm), 100 Hz, ``touch_stamp_ns``;
        ``joints`` ``(400, 15)`` float32, positions (m, rad), velocities and forces (N, Nm) of five joints, 100 Hz,
        ``joints_stamp_ns``; ``label``.

    Raises:
        SerketError: MuJoCo is not installed.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import mujoco
    except ImportError:
        raise not_installed("recording needs the package mujoco", "sim") from None
    rng = np.random.default_rng([seed, number, test])
    label = number % len(CATEGORIES)
    model = mujoco.MjModel.from_xml_string(scene(draw(label, test, rng)))
    data = mujoco.MjData(model)
    wanted = range(int(EPISODE_S * 30)) if frames is None else sorted(frames)
    due = {round((frame + 1) * 1000 / 30 / STEP_MS): frame for frame in wanted}
    noise = rng.normal(size=(int(EPISODE_S * 100), 27)).astype(np.float32)
    camera, touch, joints, stamps = [], [], [], []
    jitter = rng.normal(0, 0.003)  # where it grasps is not always the same
    for _ in range(150):  # the object comes to rest
        data.ctrl[:] = _command(0.0, jitter)
        mujoco.mj_step(model, data)
    renderer = mujoco.Renderer(model, PIXELS, PIXELS)
    try:
        for step in range(1, int(EPISODE_S * 1000 / STEP_MS) + 1):
            data.ctrl[:] = _command(step * STEP_MS / 1000, jitter)
            grip = 4.0 if step * STEP_MS > 2300 else 6.0
            model.actuator_forcerange[3:] = [-grip, grip]
            mujoco.mj_step(model, data)
            if step % (SAMPLE_MS // STEP_MS) == 0:
                touch.append(data.sensordata.copy())
                joints.append(np.concatenate([data.qpos[:5], data.qvel[:5], data.actuator_force]))
            if step in due:
                camera.append(_picture(renderer, data))
                stamps.append(step * STEP_MS * 1_000_000)
    finally:
        renderer.close()
    clock = (np.arange(len(touch), dtype=np.int64) + 1) * SAMPLE_MS * 1_000_000
    return {
        "camera": np.stack(camera) if camera else np.zeros((0, PIXELS, PIXELS, 4), np.uint8),
        "camera_stamp_ns": np.array(stamps, dtype=np.int64),
        "touch": np.array(touch, np.float32) + noise[:, :12] * _NOISE[:12],
        "touch_stamp_ns": clock,
        "joints": np.array(joints, np.float32) + noise[:, 12:] * _NOISE[12:],
        "joints_stamp_ns": clock,
        "label": label,
    }


def _command(t: float, jitter: float) -> Array:
    """Return the positions that the joints should take at a time in seconds: lift, sway, wrist, left, right."""
    below = -0.155 + jitter
    height = np.interp(t, [0, 0.8, 1.15, 1.7, 2.3], [0, 0, below, below, below + 0.06])
    sway = 0.02 * np.sin(2 * np.pi * 3 * (t - 2.9)) if t > 2.9 else 0.0
    closed = np.interp(t, [1.15, 1.55], [0, 0.09])
    return np.array([height, sway, 0.0, closed, closed])


def _picture(renderer: Any, data: Any) -> Array:
    renderer.update_scene(data, camera="front")
    colour = renderer.render()
    renderer.enable_depth_rendering()
    depth = renderer.render()
    renderer.disable_depth_rendering()
    near, far = DEPTH_M
    grey = np.round(np.clip((depth - near) / (far - near), 0, 1) * 255).astype(np.uint8)
    return np.concatenate([colour, grey[..., None]], -1)
