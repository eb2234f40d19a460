"""The synthetic table world: random scenes, and the motion of gripper, bodies and camera.

Lengths are in units of the view width of the camera aux1, so scenes do not depend on the
resolution; time is in frames. On the table, x points to the right and y towards the viewer; z is
the height above the table.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

CLASSES = ("PushAway", "PushLeft", "PushRight", "PushToward")
DIRECTIONS = {
    "PushAway": (0.0, -1.0),
    "PushLeft": (-1.0, 0.0),
    "PushRight": (1.0, 0.0),
    "PushToward": (0.0, 1.0),
}
NUM_GROUPS = 25
# Groups 1 to 7, the test groups of UCF-101's first split, are distributed evenly among the other
# groups, so that even a small data set has train and test videos.
GROUP_ORDER = sorted(
    range(1, NUM_GROUPS + 1),
    key=lambda group: (group - 0.5) / 7 if group <= 7 else (group - 7.5) / 18,
)
MATERIALS = ("checker", "dots")
# Two table colors per palette, RGB in [0, 1].
TABLE_PALETTES = (
    ((0.80, 0.62, 0.42), (0.55, 0.38, 0.24)),
    ((0.70, 0.80, 0.72), (0.38, 0.53, 0.50)),
)
BODY_COLOURS = ((0.86, 0.20, 0.18), (0.96, 0.74, 0.14), (0.20, 0.64, 0.32), (0.18, 0.42, 0.84))
GRIPPER_RADIUS = 0.085
GRIPPER_LIFT = 0.34  # height of the gripper at the start and at the end
MEAN_SPEED = 0.034  # view widths per frame
SPEED_RANGE = 0.3
SUBSTEPS = 4
FRICTION = 0.93  # fraction of the speed that a sliding body keeps per substep
CAMERA_LEAD = 0.10


@dataclass(frozen=True)
class Style:
    """The appearance that all videos in a group share: the table and the brightness."""

    material: int
    palette: int
    period: float  # size of a cell of the table's pattern
    brightness: float


@dataclass(frozen=True)
class TableScene:
    """All random values of a clip."""

    label: str
    group: int
    style: Style
    table_offset: tuple[float, float]
    camera_start: tuple[float, float]
    speed: float
    wobble: tuple[float, float, float]  # amplitude, angular speed per frame, phase
    centres: Float[np.ndarray, "bodies 2"]
    radii: Float[np.ndarray, " bodies"]
    angles: Float[np.ndarray, " bodies"]
    colours: Int[np.ndarray, " bodies"]
    shapes: Int[np.ndarray, " bodies"]  # 0 disc, 1 rounded box


@dataclass(frozen=True)
class Motion:
    """The motion in a scene, one row per frame.

    `gripper` and `opening` have an extra row, from which the last action is computed.
    """

    gripper: Float[np.ndarray, "t_and_1 3"]
    opening: Float[np.ndarray, " t_and_1"]  # 0 closed, 1 open
    camera: Float[np.ndarray, "t 2"]
    centres: Float[np.ndarray, "t bodies 2"]
    angles: Float[np.ndarray, "t bodies"]


def draw_style(seed: int, group: int) -> Style:
    """Return the random appearance that all videos in a group share.

    The tables of groups 1 to 7, the test groups of UCF-101's first split, also appear in other
    groups.
    """
    tables = len(MATERIALS) * len(TABLE_PALETTES)
    order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).permutation(tables)
    table = int(order[(group - 8) % tables])
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, group)))
    return Style(
        material=table % len(MATERIALS),
        palette=table // len(MATERIALS),
        period=float(random.uniform(0.33, 0.36)),
        brightness=float(random.uniform(0.97, 1.03)),
    )


def clip_class_and_group(index: int) -> tuple[str, int]:
    """Return the class and the group (1 to 25) of clip `index`; classes alternate."""
    turn, label = divmod(index, len(CLASSES))
    return CLASSES[label], GROUP_ORDER[turn % NUM_GROUPS]


def draw_table(seed: int, index: int) -> TableScene:
    """Return the random scene of clip `index`; the class affects only the label and the motion."""
    random = np.random.default_rng(np.random.SeedSequence([seed, index]))
    label, group = clip_class_and_group(index)
    radii, centres = _scatter_bodies(random)
    return TableScene(
        label=label,
        group=group,
        style=draw_style(seed, group),
        table_offset=(float(random.uniform(0, 8)), float(random.uniform(0, 8))),
        camera_start=(float(random.uniform(-0.12, 0.12)), float(random.uniform(-0.12, 0.12))),
        speed=MEAN_SPEED * float(random.uniform(1 - SPEED_RANGE, 1 + SPEED_RANGE)),
        wobble=(
            float(random.uniform(0.0, 0.006)),
            float(random.uniform(0.15, 0.3)),
            float(random.uniform(0, 2 * math.pi)),
        ),
        centres=centres,
        radii=radii,
        angles=random.uniform(0, math.pi / 2, len(radii)),
        colours=random.integers(len(BODY_COLOURS), size=len(radii)),
        shapes=random.integers(2, size=len(radii)),
    )


def _scatter_bodies(
    random: np.random.Generator,
) -> tuple[Float[np.ndarray, " bodies"], Float[np.ndarray, "bodies 2"]]:
    """Return random radii and centers of bodies on the table.

    One body lies near each of the four possible gripper paths, so that the first frame does not
    reveal the class. More bodies are placed at random positions with a minimum distance, wherever
    the camera may look.
    """
    centres: list[np.ndarray] = []
    radii: list[float] = []
    for x, y in DIRECTIONS.values():
        distance = random.uniform(0.30, 0.62)
        sideways = random.uniform(-0.12, 0.12)
        centres.append(np.array([x * distance - y * sideways, y * distance + x * sideways]))
        radii.append(float(random.uniform(0.09, 0.145)))
    for _ in range(60):
        candidate = random.uniform(-1.9, 1.9, 2)
        radius = float(random.uniform(0.09, 0.145))
        gaps = np.linalg.norm(np.array(centres) - candidate, axis=1) - np.array(radii) - radius
        if gaps.min() > 0.22 and np.abs(candidate).max() > 0.5:
            centres.append(candidate)
            radii.append(radius)
    return np.array(radii), np.array(centres)


def _smooth(x: float) -> float:
    """Return a value that rises smoothly from 0 at x = 0 to 1 at x = 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def push_bodies(scene: TableScene, num_frames: int) -> Motion:
    """Return the motion of gripper, bodies and camera during `num_frames` frames.

    The method is position-based dynamics (Müller et al. 2007): overlaps between the gripper and the
    bodies are removed by moving the bodies, velocities follow from displacements, and friction with
    the table damps the velocities.
    """
    enter = min(6.0, num_frames / 4)
    leave = min(5.0, num_frames / 5)
    direction = np.array(DIRECTIONS[scene.label])
    sideways = np.array([-direction[1], direction[0]])
    centres, angles = scene.centres.copy(), scene.angles.copy()
    velocity = np.zeros_like(centres)
    gripper, camera, camera_velocity = np.zeros(2), np.array(scene.camera_start), np.zeros(2)
    drift = 0.0
    rows: list[tuple[np.ndarray, float, float, np.ndarray, np.ndarray, np.ndarray]] = []
    for frame in range(num_frames + 1):
        down = _smooth(frame / enter) * _smooth((num_frames - frame) / leave)
        opening = 1.0 - _smooth((frame - 1) / enter) * _smooth((num_frames - frame - 1) / leave)
        height = GRIPPER_LIFT * (1.0 - down)
        rows.append((gripper.copy(), height, opening, camera.copy(), centres.copy(), angles.copy()))
        pace = _smooth((frame + 2.0) / enter) * (
            0.35 + 0.65 * _smooth((num_frames - frame) / leave)
        )
        speed = scene.speed * pace
        # Steer towards the nearest body ahead, gently and at most at half the forward speed.
        wish = 0.25 * _sideways_to_target(gripper, centres, direction, sideways)
        drift += 0.4 * (min(max(wish, -0.5 * speed), 0.5 * speed) - drift)
        amplitude, omega, phase = scene.wobble
        step = direction * speed + sideways * (
            drift + pace * amplitude * math.sin(omega * frame + phase)
        )
        for _ in range(SUBSTEPS):
            gripper = gripper + step / SUBSTEPS
            before = centres
            centres = _without_overlap(
                centres + velocity / SUBSTEPS, scene.radii, gripper, height < 0.1
            )
            velocity = (centres - before) * SUBSTEPS * FRICTION
            spin = velocity @ sideways * direction.sum() / scene.radii
            angles = angles + np.where(scene.shapes == 1, 0.35 * spin / SUBSTEPS, 0.0)
        # A damped spring pulls the camera to a point ahead of the gripper, at the gripper's pace.
        target = gripper + direction * CAMERA_LEAD * _smooth(frame / (3 * enter))
        excess = camera_velocity - step * _smooth(frame / enter)
        camera_velocity = camera_velocity + 0.2 * (target - camera) - 0.9 * excess
        camera = camera + camera_velocity
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Motion(
        gripper=np.concatenate([columns[0], columns[1][:, None]], axis=1),
        opening=columns[2],
        camera=columns[3][:-1],
        centres=columns[4][:-1],
        angles=columns[5][:-1],
    )


def _sideways_to_target(
    gripper: np.ndarray, centres: np.ndarray, direction: np.ndarray, sideways: np.ndarray
) -> float:
    """Return the signed sideways distance to the nearest body ahead, or 0 if none is close."""
    relative = centres - gripper
    ahead, aside = relative @ direction, relative @ sideways
    reachable = (ahead > 0.02) & (np.abs(aside) < 0.3)
    if not reachable.any():
        return 0.0
    nearest = int(np.argmin(np.where(reachable, ahead + 2.0 * np.abs(aside), np.inf)))
    return float(aside[nearest])


def _without_overlap(
    centres: np.ndarray, radii: np.ndarray, gripper: np.ndarray, touching: bool
) -> np.ndarray:
    """Return the centers of bodies after removing overlaps.

    If two bodies overlap, the lighter body is moved farther.

    Args:
        centres, radii: centers and radii of the bodies.
        gripper: position of the gripper.
        touching: whether the gripper is low enough to push bodies.
    """
    if touching:
        away = centres - gripper
        distance = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
        depth = np.maximum(radii + GRIPPER_RADIUS - distance, 0.0)
        centres = centres + away * (depth / distance)[:, None]
    away = centres[:, None] - centres[None]
    distance = np.linalg.norm(away, axis=2) + np.eye(len(centres)) * 1e3
    depth = np.maximum(radii[:, None] + radii[None] - distance, 0.0)
    if depth.any():
        mass = radii**2
        share = mass[None] / (mass[:, None] + mass[None])
        centres = centres + (away * (depth * share / distance)[..., None]).sum(axis=1)
    return centres
