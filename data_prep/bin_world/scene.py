"""The pushing scene as an MJCF model: a bin, objects made of simple shapes, and a robot arm.

Coordinates are in meters: x points to the right, y away from the viewer towards the robot, and z
up. The origin is the center of the bin's floor.
"""

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np

Numbers = tuple[int | float, ...]
Kind = Literal["box", "can", "ball", "bar", "mug", "corner", "duck"]
KINDS: tuple[Kind, ...] = ("box", "can", "ball", "bar", "mug", "corner", "duck")

BIN_HALF = 0.20  # half the side of the square floor
WALL_HEIGHT = 0.05
MIN_OBJECTS, MAX_OBJECTS = 5, 9
SHOULDER = (0.0, 0.40, 0.26)
LINK_LENGTH = 0.36  # length of the upper arm and of the forearm
WRIST_HEIGHT = 0.18  # height of the wrist above the fingertips
FINGER_GAP = 0.026  # distance between the centers of a finger and the hand
LAMP_HEIGHT = 1.3
TIMESTEP = 0.004  # seconds
SHADOW_PIXELS = 256  # larger shadow maps would take most of a software renderer's time
FLOORS = ((0.62, 0.55, 0.46), (0.50, 0.52, 0.55), (0.66, 0.63, 0.58), (0.46, 0.50, 0.46))
HUES = (0.0, 0.06, 0.12, 0.30, 0.47, 0.58, 0.66, 0.76, 0.90)


@dataclass(frozen=True)
class Body:
    """An object in the bin.

    Attributes:
        kind: shape of the object.
        half: half the approximate width of the object, in meters.
        colour: red, green and blue in [0, 1].
        position: initial x and y, in meters.
        angle: initial angle about the vertical axis, in radians.
    """

    kind: Kind
    half: float
    colour: tuple[float, float, float]
    position: tuple[float, float]
    angle: float


@dataclass(frozen=True)
class BinScene:
    """The initial scene of an episode.

    Attributes:
        bodies: objects in the bin.
        floor: red, green and blue of the floor, in [0, 1].
        light: x and y of the lamp, in meters; the lamp's height is LAMP_HEIGHT.
        hand: initial x, y, z (in meters) and angle (in radians) of the hand.
    """

    bodies: tuple[Body, ...]
    floor: tuple[float, float, float]
    light: tuple[float, float]
    hand: tuple[float, float, float, float]


def draw_bin(rng: np.random.Generator) -> BinScene:
    """Return a random scene in which no objects touch each other or the hand."""
    hues = rng.permutation(HUES)
    hand = tuple(float(value) for value in rng.uniform(-0.11, 0.11, size=2))
    bodies: list[Body] = []
    for number in range(int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))):
        half = float(rng.uniform(0.026, 0.039))
        while (place := _free_place(rng, bodies, half, hand)) is None:
            half *= 0.85  # the bin has no room for an object of this size
        colour = colorsys.hsv_to_rgb(hues[number], rng.uniform(0.75, 1.0), rng.uniform(0.7, 1.0))
        angle = float(rng.uniform(-np.pi, np.pi))
        bodies.append(Body(KINDS[rng.integers(len(KINDS))], half, colour, place, angle))
    tint = float(rng.uniform(0.9, 1.1))
    red, green, blue = (tint * value for value in FLOORS[rng.integers(len(FLOORS))])
    x, y = (float(value) for value in rng.uniform(-0.15, 0.15, size=2))
    start = (hand[0], hand[1], float(rng.uniform(0.02, 0.08)), float(rng.uniform(-1.5, 1.5)))
    return BinScene(tuple(bodies), (red, green, blue), (x, y), start)


def _free_place(
    rng: np.random.Generator, bodies: list[Body], half: float, hand: tuple[float, ...]
) -> tuple[float, float] | None:
    """Return a random position where an object touches nothing, or None after 200 attempts."""
    reach = BIN_HALF - 1.7 * half
    for _ in range(200):
        x, y = (float(value) for value in rng.uniform(-reach, reach, size=2))
        clear = all(
            np.hypot(x - body.position[0], y - body.position[1]) > 1.5 * (half + body.half)
            for body in bodies
        )
        if clear and np.hypot(x - hand[0], y - hand[1]) > 0.05 + 1.5 * half:
            return x, y
    return None


def mjcf(scene: BinScene, pixels: int) -> str:
    """Return the complete MJCF model of a scene.

    Args:
        scene: part of the model that differs between episodes.
        pixels: side of the largest image to render, in pixels.
    """
    bodies = "\n".join(_body(number, body) for number, body in enumerate(scene.bodies))
    lamp = (*scene.light, LAMP_HEIGHT)
    return f"""<mujoco model="pushing">
<compiler angle="radian"/>
<option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"/>
<statistic extent="1" center="0 0 0"/>
<visual>
  <global offwidth="{pixels}" offheight="{pixels}"/>
  <quality shadowsize="{SHADOW_PIXELS}" offsamples="0" numslices="20" numstacks="10"/>
  <headlight ambient="0.40 0.40 0.40" diffuse="0.20 0.20 0.20" specular="0 0 0"/>
  <map znear="0.05" zfar="3" shadowclip="0.7"/>
</visual>
<default>
  <geom condim="4" friction="0.6 0.006 0.0002" solref="0.012 1"/>
  <default class="seen"><geom contype="0" conaffinity="0"/></default>
  <default class="room"><geom contype="1" conaffinity="2"/></default>
  <default class="object"><geom contype="2" conaffinity="7" density="300"/></default>
  <default class="hand"><geom contype="4" conaffinity="2"/></default>
</default>
<worldbody>
  <light pos="{_text(*lamp)}" dir="{_text(*(-value for value in lamp))}" diffuse="0.6 0.6 0.58"
    specular="0.2 0.2 0.2" castshadow="true" cutoff="45" exponent="1"/>
  {_camera("main", (0.0, -0.46, 0.44), (0.0, 0.0, 0.01))}
  {_camera("aux1", (0.36, -0.30, 0.46), (0.0, 0.0, 0.01))}
{_room(scene.floor)}
{_arm(scene.hand)}
{bodies}
</worldbody>
<actuator>
  <position joint="hand_x" kp="900" kv="80"/>
  <position joint="hand_y" kp="900" kv="80"/>
  <position joint="hand_z" kp="1500" kv="100"/>
  <position joint="hand_turn" kp="5" kv="0.4"/>
</actuator>
</mujoco>
"""


def _text(*values: int | float) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _camera(name: str, eye: tuple[float, ...], target: tuple[float, ...]) -> str:
    back = np.subtract(eye, target)
    right = np.cross((0.0, 0.0, 1.0), back)
    up = np.cross(back, right)
    return f'<camera name="{name}" pos="{_text(*eye)}" xyaxes="{_text(*right, *up)}" fovy="43"/>'


def _geom(shape: str, size: Numbers, rgb: Numbers, extra: str, at: Numbers = (0, 0, 0)) -> str:
    colour = _text(*(min(max(value, 0.0), 1.0) for value in rgb), 1)
    return (
        f'<geom type="{shape}" size="{_text(*size)}" pos="{_text(*at)}" rgba="{colour}" {extra}/>'
    )


def _room(floor: tuple[float, float, float]) -> str:
    """Return the MJCF geoms of the bin (a floor and four walls) and of the ground around it."""
    wall = tuple(0.62 * value for value in floor)
    thick, half, room = 0.008, BIN_HALF, 'class="room"'
    long, high = half + 2 * thick, WALL_HEIGHT / 2
    lines = [
        _geom("box", (2, 2, 0.01), (0.20, 0.21, 0.23), 'class="seen"', (0, 0, -0.04)),
        _geom("box", (long, long, 0.015), floor, room, (0, 0, -0.015)),
    ]
    for sign in (-1, 1):
        at = sign * (half + thick)
        lines.append(_geom("box", (thick, long, high), wall, room, (at, 0, high)))
        lines.append(_geom("box", (long, thick, high), wall, room, (0, at, high)))
    return "\n".join(lines)


def _arm(hand: tuple[float, float, float, float]) -> str:
    """Return the MJCF bodies of the hand, with its joints, and of the arm, which cannot collide."""
    red, dark, steel = (0.62, 0.10, 0.10), (0.16, 0.16, 0.18), (0.75, 0.76, 0.78)
    seen, touching, along = 'class="seen"', 'class="hand"', f"0 0 {LINK_LENGTH:.6g}"
    tips = "\n".join(
        _geom("box", (0.007, 0.011, 0.028), dark, touching, (side * FINGER_GAP, 0, 0.028))
        for side in (-1, 1)
    )
    return f"""<body name="base" pos="{_text(SHOULDER[0], SHOULDER[1], 0)}">
{_geom("cylinder", (0.07, SHOULDER[2] / 2), dark, seen, (0, 0, SHOULDER[2] / 2))}
{_geom("sphere", (0.068,), red, seen, (0, 0, SHOULDER[2]))}
</body>
<body name="upper_arm" mocap="true">
<geom type="capsule" fromto="0 0 0 {along}" size="0.042" rgba="{_text(*red)} 1" {seen}/>
</body>
<body name="forearm" mocap="true">
{_geom("sphere", (0.05,), dark, seen)}
<geom type="capsule" fromto="0 0 0 {along}" size="0.034" rgba="{_text(*red)} 1" {seen}/>
</body>
<body name="hand" gravcomp="1">
<joint name="hand_x" type="slide" axis="1 0 0"/>
<joint name="hand_y" type="slide" axis="0 1 0"/>
<joint name="hand_z" type="slide" axis="0 0 1"/>
<joint name="hand_turn" type="hinge" axis="0 0 1"/>
{tips}
{_geom("box", (0.040, 0.016, 0.014), steel, touching, (0, 0, 0.068))}
{_geom("cylinder", (0.026, 0.03), dark, seen, (0, 0, 0.11))}
{_geom("cylinder", (0.020, 0.03), steel, seen, (0, 0, 0.15))}
</body>"""


def _body(number: int, body: Body) -> str:
    x, y = body.position
    parts = "\n".join(_parts(body))
    turn = _text(np.cos(body.angle / 2), 0, 0, np.sin(body.angle / 2))
    return (
        f'<body name="object{number}" pos="{_text(x, y, body.half + 0.004)}" quat="{turn}">'
        f"<freejoint/>\n{parts}\n</body>"
    )


def _parts(body: Body) -> list[str]:
    """Return an object's MJCF geoms, which extend to at most about `half` below the center."""
    h, colour, kind = body.half, body.colour, 'class="object"'
    pale = tuple(0.5 + 0.5 * value for value in colour)
    match body.kind:
        case "box":
            return [_geom("box", (h, 0.8 * h, 0.75 * h), colour, kind)]
        case "can":
            return [
                _geom("cylinder", (0.75 * h, h), colour, kind),
                _geom("cylinder", (0.6 * h, 1.02 * h), pale, 'class="seen" mass="0"'),
            ]
        case "ball":
            return [_geom("sphere", (0.85 * h,), colour, kind + ' friction="0.6 0.02 0.004"')]
        case "bar":
            return [_geom("box", (1.6 * h, 0.42 * h, 0.45 * h), colour, kind)]
        case "mug":
            return [
                _geom("cylinder", (0.85 * h, 0.9 * h), colour, kind),
                _geom("cylinder", (0.65 * h, 0.92 * h), pale, 'class="seen" mass="0"'),
                _geom("box", (0.3 * h, 0.14 * h, 0.5 * h), colour, kind, (1.05 * h, 0, 0)),
            ]
        case "corner":
            return [
                _geom("box", (1.2 * h, 0.4 * h, 0.5 * h), colour, kind, (0, -0.8 * h, 0)),
                _geom("box", (0.4 * h, 0.8 * h, 0.5 * h), colour, kind, (-0.8 * h, 0.4 * h, 0)),
            ]
        case "duck":
            return [
                _geom("ellipsoid", (1.15 * h, 0.8 * h, 0.65 * h), colour, kind),
                _geom("sphere", (0.5 * h,), colour, kind, (0.75 * h, 0, 0.75 * h)),
                _geom(
                    "box",
                    (0.2 * h, 0.2 * h, 0.1 * h),
                    (1.0, 0.6, 0.1),
                    kind,
                    (1.35 * h, 0, 0.75 * h),
                ),
            ]
