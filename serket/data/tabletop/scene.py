"""The table, the gripper and an object, as a MuJoCo model."""

from __future__ import annotations

from collections.abc import Callable

from serket.data.tabletop.objects import Thing

__all__ = ["scene"]

JOINTS = ("lift", "sway", "wrist", "left", "right")

_SCENE = """
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <quality shadowsize="0" offsamples="0"/>
    <headlight ambient="0.5 0.5 0.5" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
    <map znear="0.05" zfar="10"/>
  </visual>
  <default><geom condim="4" solref="0.005 1"/></default>
  <worldbody>
    <light pos="0.1 -0.4 0.8" dir="-0.1 0.4 -0.8" castshadow="false" diffuse="0.7 0.7 0.7" specular="0.1 0.1 0.1"/>
    <geom name="table" type="plane" size="1 1 0.1" rgba="0.55 0.5 0.45 1" friction="0.8 0.01 0.001"/>
    <camera name="front" pos="0.03 -0.30 0.21" xyaxes="1 0.1 0 -0.045 0.45 0.89" fovy="33"/>
    <body name="hand" pos="0 0 0.20">
      <inertial pos="0 0 0" mass="0.6" diaginertia="0.001 0.001 0.001"/>
      <joint name="lift" type="slide" axis="0 0 1" damping="5"/>
      <joint name="sway" type="slide" axis="0 1 0" damping="5"/>
      <joint name="wrist" type="hinge" axis="1 0 0" damping="0.05"/>
      <geom type="box" size="0.055 0.012 0.008" pos="0 0 0.03" rgba="0.25 0.25 0.28 1" contype="0" conaffinity="0"/>
      {fingers}
    </body>
    <body name="object" pos="{x} {y} {z}" euler="0 0 {yaw}">
      <freejoint/>
      <inertial pos="{com}" mass="{mass}" diaginertia="{inertia}"/>
      {geoms}
    </body>
  </worldbody>
  <actuator>
    <position name="lift" joint="lift" kp="1500" kv="60" forcerange="-40 40"/>
    <position name="sway" joint="sway" kp="1500" kv="60" forcerange="-40 40"/>
    <position name="wrist" joint="wrist" kp="4" kv="0.15" forcerange="-3 3"/>
    <position name="left" joint="left" kp="200" kv="12" forcerange="-6 6"/>
    <position name="right" joint="right" kp="200" kv="12" forcerange="-6 6"/>
  </actuator>
  <sensor>
    <force name="left_force" site="left_tip"/><torque name="left_torque" site="left_tip"/>
    <force name="right_force" site="right_tip"/><torque name="right_torque" site="right_tip"/>
  </sensor>
</mujoco>
"""

_FINGER = """
<body name="{name}" pos="{side}0.055 0 0">
  <inertial pos="0 0 0" mass="0.05" diaginertia="0.00002 0.00002 0.00002"/>
  <joint name="{name}" type="slide" axis="{axis} 0 0" damping="1" range="-0.01 0.055" limited="true"/>
  <geom type="box" size="0.004 0.007 0.02" pos="0 0 0.01" rgba="0.3 0.3 0.34 1" contype="0" conaffinity="0" mass="0"/>
  <body name="{name}_tip" pos="0 0 -0.02">
    <site name="{name}_tip"/>
    <geom type="box" size="0.004 0.009 0.012" rgba="0.15 0.15 0.18 1" friction="{friction} 0.01 0.0005" priority="1"
          solref="{softness} 1" mass="0.02"/>
  </body>
</body>
"""


def scene(thing: Thing) -> str:
    """Return the model, with ``thing`` on the table between the open fingers; metres, kilograms, newtons."""
    geoms, height, reach = _FORMS[thing.kind.form](thing)
    fingers = "".join(
        _FINGER.format(name=name, side=side, axis=axis, friction=thing.friction, softness=thing.softness)
        for name, side, axis in (("left", "-", 1), ("right", "", -1))
    )
    inertia = thing.mass * (reach**2 + height**2) / 4
    return _SCENE.format(
        fingers=fingers,
        geoms=geoms,
        x=thing.x,
        y=thing.y,
        z=height + 0.001,
        yaw=thing.yaw,
        com=f"0 {thing.offset * reach} 0",
        mass=thing.mass,
        inertia=f"{inertia} {inertia} {inertia}",
    )


def _geom(thing: Thing, kind: str, size: tuple[float, ...], at: tuple[float, ...] = (0, 0, 0), *, accent: bool = False,
          turned: str = "") -> str:  # fmt: skip
    """Return one geom; lengths at size 1, scaled here."""
    colour = thing.accent if accent else thing.colour
    numbers = " ".join(str(thing.size * one) for one in size)
    place = " ".join(str(thing.size * one) for one in at)
    return (
        f'<geom type="{kind}" size="{numbers}" pos="{place}" rgba="{colour[0]} {colour[1]} {colour[2]} 1" {turned} '
        f'mass="0" friction="{thing.friction} 0.01 0.0005" solref="{thing.softness} 1"/>'
    )


def _built(build: Callable[[Thing], str], height: float, reach: float) -> Callable[[Thing], tuple[str, float, float]]:
    """Return what makes geoms, the height of the middle above the table, and half the length along y, in metres."""
    return lambda thing: (build(thing), height * thing.size, reach * thing.size)


_BANDS = ((-0.027, False), (-0.009, True), (0.009, False), (0.027, True))
_ALONG_Y = 'euler="1.5707963 0 0"'

_FORMS = {
    "can": _built(lambda t: _geom(t, "cylinder", (0.024, 0.036)), 0.036, 0.024),
    "can_striped": _built(
        lambda t: "".join(_geom(t, "cylinder", (0.024, 0.009), (0, 0, z), accent=a) for z, a in _BANDS), 0.036, 0.024
    ),
    "block": _built(lambda t: _geom(t, "box", (0.022, 0.026, 0.036)), 0.036, 0.026),
    "block_banded": _built(
        lambda t: "".join(_geom(t, "box", (0.022, 0.026, 0.009), (0, 0, z), accent=a) for z, a in _BANDS), 0.036, 0.026
    ),
    "ball": _built(lambda t: _geom(t, "sphere", (0.03,)), 0.03, 0.03),
    "slab": _built(lambda t: _geom(t, "box", (0.025, 0.045, 0.024)), 0.024, 0.045),
    "bottle": _built(
        lambda t: (
            _geom(t, "cylinder", (0.022, 0.028), (0, 0, -0.014))
            + _geom(t, "cylinder", (0.010, 0.014), (0, 0, 0.028), accent=True)
        ),
        0.042,
        0.022,
    ),
    "egg": _built(lambda t: _geom(t, "ellipsoid", (0.024, 0.024, 0.032)), 0.032, 0.024),
    "rod": _built(lambda t: _geom(t, "box", (0.015, 0.065, 0.018)), 0.018, 0.065),
    "mug": _built(
        lambda t: (
            _geom(t, "cylinder", (0.024, 0.034))
            + _geom(t, "box", (0.004, 0.016, 0.005), (0, -0.036, 0.018), accent=True)
            + _geom(t, "box", (0.004, 0.005, 0.02), (0, -0.048, 0.0), accent=True)
        ),
        0.034,
        0.024,
    ),
    "jar": _built(
        lambda t: (
            _geom(t, "cylinder", (0.024, 0.030), (0, 0, -0.006))
            + _geom(t, "box", (0.022, 0.03, 0.006), (0, 0, 0.030), accent=True)
        ),
        0.036,
        0.024,
    ),
    "tee": _built(
        lambda t: (
            _geom(t, "box", (0.018, 0.018, 0.028), (0, 0, -0.008))
            + _geom(t, "box", (0.018, 0.055, 0.008), (0, 0, 0.028))
        ),
        0.036,
        0.03,
    ),
    "dumbbell": _built(
        lambda t: (
            _geom(t, "cylinder", (0.012, 0.04), turned=_ALONG_Y)
            + _geom(t, "sphere", (0.024,), (0, -0.04, 0), accent=True)
            + _geom(t, "sphere", (0.024,), (0, 0.04, 0), accent=True)
        ),
        0.024,
        0.06,
    ),
}
