"""Rendering of labeled clips of the synthetic table world, using only NumPy."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from data_prep.table_world.motion import (
    BODY_COLOURS,
    MATERIALS,
    TABLE_PALETTES,
    Motion,
    TableScene,
    draw_table,
    push_bodies,
)

FPS = 25
RENDERER_VERSION = 2  # increases with every change of a pixel or an action
BODY_HEIGHT = 0.075
LIGHT = (0.035, 0.045)  # offset of a body's shadow on the table
Numbers = Int[np.ndarray, " n"]
DARK, STEEL, PALE = (0.20, 0.22, 0.26), (0.62, 0.65, 0.70), (0.90, 0.91, 0.93)


@dataclass(frozen=True)
class TableClip:
    """A rendered clip with its ground truth.

    Attributes:
        frames: uint8 RGB frames.
        label: class name, one of CLASSES.
        group: number of the group, 1 to 25; all clips in a group share the appearance of the table.
        actions: change from each frame to the next, t 4: displacement of the gripper in x, y and z,
            in view widths, and change in the opening of the fingers (0 closed, 1 open).
        positions: x, y, z of the gripper in view widths, t 3; y points towards the viewer.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    label: str
    group: int
    actions: Float32[np.ndarray, "t 4"]
    positions: Float32[np.ndarray, "t 3"]


@dataclass(frozen=True)
class View:
    """A parallel projection of the table that follows the gripper.

    Attributes:
        widths: width and height of the image, in table units.
        turn: 1 for a view from the near side, -1 for a view from the far side, with both axes
            flipped.
        rise: distance by which a point at height 1 appears higher in the image, in table units.
        follow: fraction of the camera's motion that the view follows.
    """

    widths: tuple[float, float]
    turn: int
    rise: float
    follow: float


VIEWS = {
    "aux1": View(widths=(1.0, 1.0), turn=1, rise=0.45, follow=1.0),
    "main": View(widths=(1.35, 1.8), turn=-1, rise=0.8, follow=0.85),
}


def render_clip(
    seed: int,
    index: int,
    num_frames: int = 30,
    size: int = 64,
    camera: Literal["aux1", "main"] = "aux1",
) -> TableClip:
    """Return a rendered clip, which depends only on the arguments.

    Args:
        seed: seed of the data set.
        index: index of the clip; the class is CLASSES[index % 4].
        num_frames: number of frames; the gripper descends at the start and rises at the end.
        size: side of the square frames, in pixels.
        camera: name of the camera: aux1 looks down and follows the gripper; main has a wider view
            from the far side.
    """
    scene = draw_table(seed, index)
    motion = push_bodies(scene, num_frames)
    state = np.concatenate([motion.gripper, motion.opening[:, None]], axis=1).astype(np.float32)
    return TableClip(
        frames=_render(scene, motion, VIEWS[camera], size),
        label=scene.label,
        group=scene.group,
        actions=np.diff(state, axis=0),
        positions=state[:-1, :3],
    )


def _render(
    scene: TableScene, motion: Motion, view: View, size: int
) -> UInt8[np.ndarray, "t h w 3"]:
    canvas = _Canvas(view, motion.camera * view.follow, size)
    canvas.image[:] = _table(scene, canvas)
    order, counts = _back_to_front(motion, canvas)
    for draw in (_draw_body_shadow, _draw_body):
        for slot in range(int(counts.max(initial=0))):
            times = np.flatnonzero(counts > slot)
            draw(canvas, scene, motion, times, order[times, slot])
    _draw_gripper(canvas, motion)
    frames = (canvas.image * 255.0 + 0.5).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames.transpose(1, 2, 3, 0))


class _Canvas:
    """The frames being painted, with the table position of each pixel."""

    def __init__(self, view: View, centres: Float[np.ndarray, "t 2"], size: int):
        pixels = ((np.arange(size) + 0.5) / size - 0.5) * view.turn
        self.view = view
        self.size = size
        self.centres = centres
        self.x = (centres[:, :1] + pixels * view.widths[0]).astype(np.float32)  # t w
        self.y = (centres[:, 1:] + pixels * view.widths[1]).astype(np.float32)  # t h
        self.pixel = max(view.widths) / size
        self.image = np.empty((3, len(centres), size, size), np.float32)  # planes paint faster

    def patch(
        self,
        times: Numbers,
        centres: Float[np.ndarray, "n 2"],
        half: float,
        height: Float[np.ndarray, " n"] | float = 0.0,
    ) -> "_Patch":
        """Return a patch of the canvas around one point per frame.

        Args:
            times: indices of the frames.
            centres: x and y of the point in each frame.
            half: half the side of the square patch, in table units.
            height: height of the point above the table.
        """
        seen = (centres - self.centres[times]) / self.view.widths * self.view.turn + 0.5
        seen[:, 1] -= self.view.rise * height / self.view.widths[1]
        span = half / np.array(self.view.widths)
        counts = np.ceil(2 * span * self.size).astype(int) + 2
        first = np.floor((seen - span) * self.size).astype(int)
        columns = (first[:, :1] + np.arange(counts[0])).clip(0, self.size - 1)
        rows = (first[:, 1:] + np.arange(counts[1])).clip(0, self.size - 1)
        return _Patch(self, times, rows, columns, centres)


class _Patch:
    """A moving square patch of the canvas, which is painted in layers and then copied back.

    A patch that extends beyond the border repeats the border pixels. The copies of a pixel are
    painted identically, so copying them back is harmless.
    """

    def __init__(
        self,
        canvas: _Canvas,
        times: Numbers,
        rows: Int[np.ndarray, "n h"],
        columns: Int[np.ndarray, "n w"],
        centres: Float[np.ndarray, "n 2"],
    ):
        pixels = (times[:, None] * canvas.size + rows)[:, :, None] * canvas.size
        self.pixels = pixels + columns[:, None, :]
        self.canvas = canvas
        self.image = canvas.image.reshape(3, -1)[:, self.pixels]
        self.x = (canvas.x[times[:, None], columns] - centres[:, :1]).astype(np.float32)[:, None]
        self.y = (canvas.y[times[:, None], rows] - centres[:, 1:]).astype(np.float32)[:, :, None]

    def at_height(self, height: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Return the x and y of the pixels at a given height, relative to the patch center."""
        return self.x, self.y + self.canvas.view.turn * self.canvas.view.rise * height

    def shade(self, opacity: np.ndarray) -> None:
        self.image *= 1 - opacity

    def paint(
        self, distance: np.ndarray, colour: Float32[np.ndarray, "3 #n"], light: np.ndarray | float
    ) -> None:
        """Paint the pixels whose signed distance is negative, with antialiased edges.

        Args:
            distance: signed distance of each pixel from the shape.
            colour: color of the shape.
            light: factor by which the color is multiplied.
        """
        cover = (0.5 - distance / np.float32(self.canvas.pixel)).clip(0, 1)
        for plane, value in zip(self.image, colour, strict=True):
            plane += cover * (_column(value) * light - plane)

    def close(self) -> None:
        """Copy the patch back to the canvas."""
        self.canvas.image.reshape(3, -1)[:, self.pixels] = self.image


def _disc(x: np.ndarray, y: np.ndarray, radius) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _box(x: np.ndarray, y: np.ndarray, half_x, half_y, corner) -> np.ndarray:
    """Return the signed distance to a box with rounded corners."""
    qx, qy = np.abs(x) - (half_x - corner), np.abs(y) - (half_y - corner)
    outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
    return outside + np.minimum(np.maximum(qx, qy), 0) - corner


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None, None]


def _body_distance(scene: TableScene, angles: np.ndarray, bodies: np.ndarray, x, y) -> np.ndarray:
    radius = _column(scene.radii[bodies])
    cos, sin = _column(np.cos(angles)), _column(np.sin(angles))
    box = _box(cos * x + sin * y, cos * y - sin * x, 0.9 * radius, 0.9 * radius, 0.45 * radius)
    return np.where(_column(scene.shapes[bodies]) == 1, box, _disc(x, y, radius))


def _back_to_front(motion: Motion, canvas: _Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of each frame's bodies, and the number of visible bodies in each frame.

    The visible bodies come first, in painting order.
    """
    relative = np.abs(motion.centres - canvas.centres[:, None]) - 0.3
    visible = (relative < np.array(canvas.view.widths) / 2).all(axis=2)
    depth = np.where(visible, motion.centres[..., 1] * canvas.view.turn, np.inf)
    return np.argsort(depth, axis=1, kind="stable"), visible.sum(axis=1)


def _soft(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Return values that fall smoothly from 1 to 0 between distances -`width` and `width`."""
    x = (0.5 - 0.5 * distance / width).clip(0, 1)
    return x * x * (3 - 2 * x)


def _draw_body_shadow(
    canvas: _Canvas, scene: TableScene, motion: Motion, times: Numbers, bodies: Numbers
) -> None:
    patch = canvas.patch(times, motion.centres[times, bodies] + LIGHT, 0.18)
    distance = _body_distance(scene, motion.angles[times, bodies], bodies, patch.x, patch.y)
    patch.shade(0.42 * _soft(distance, 0.05))
    patch.close()


def _draw_body(
    canvas: _Canvas, scene: TableScene, motion: Motion, times: Numbers, bodies: Numbers
) -> None:
    patch = canvas.patch(times, motion.centres[times, bodies], 0.18, 0.5 * BODY_HEIGHT)
    angles = motion.angles[times, bodies]
    radius = _column(scene.radii[bodies])
    colour = np.array(BODY_COLOURS, np.float32)[scene.colours[bodies]].T
    for height in (0.0, 0.5 * BODY_HEIGHT):
        side = _body_distance(scene, angles, bodies, *patch.at_height(height))
        patch.paint(side, colour, 0.52 + 1.6 * height)
    x, y = patch.at_height(BODY_HEIGHT)
    top = _body_distance(scene, angles, bodies, x, y)
    rim = 0.14 * _soft(np.abs(top + 0.2 * radius), 0.14 * radius)
    patch.paint(top, colour, 1.0 - 0.16 * (x + y) / radius + rim)
    patch.close()


def _draw_gripper(canvas: _Canvas, motion: Motion) -> None:
    times = np.arange(len(motion.camera))
    centres, height = motion.gripper[:-1, :2], motion.gripper[:-1, 2]
    lift = _column(height)
    spread = 0.045 + 0.03 * _column(motion.opening[:-1])
    steel, dark, pale = (np.array(colour, np.float32)[:, None] for colour in (STEEL, DARK, PALE))
    shadow = canvas.patch(times, centres + (1 + 6 * height[:, None]) * LIGHT, 0.24)
    distance = _box(shadow.x, shadow.y, 0.10, 0.055, 0.03)
    shadow.shade(0.42 * (1 - lift) * _soft(distance, 0.04 + 0.12 * lift))
    shadow.close()
    patch = canvas.patch(times, centres, 0.19, height + 0.15)
    for step in (0.0, 0.04, 0.08, 0.12):
        x, y = patch.at_height(lift + step)
        patch.paint(_box(np.abs(x) - spread, y, 0.028, 0.045, 0.02), steel, 0.7 + 2.6 * step)
    for step in (0.12, 0.15, 0.18):
        x, y = patch.at_height(lift + step)
        patch.paint(_box(x, y, 0.11, 0.06, 0.03), dark, 0.6 + 5 * (step - 0.12))
    for step in (0.18, 0.21, 0.24, 0.27, 0.30, 0.33):
        x, y = patch.at_height(lift + step)
        patch.paint(_disc(x, y, 0.05), pale, 0.75 + (0.2 if step > 0.32 else -0.9 * x))
    patch.close()


def _table(scene: TableScene, canvas: _Canvas) -> Float32[np.ndarray, "3 t h w"]:
    style = scene.style
    x = (canvas.x + np.float32(scene.table_offset[0]))[:, None] / np.float32(style.period)
    y = (canvas.y + np.float32(scene.table_offset[1]))[:, :, None] / np.float32(style.period)
    softness = 1.2 * canvas.pixel / style.period
    tint = _PATTERNS[MATERIALS[style.material]](x, y, softness)
    bright, dark = np.array(TABLE_PALETTES[style.palette], np.float32) * style.brightness
    planes = [dark[i] + tint * (bright[i] - dark[i]) for i in range(3)]
    return np.stack(planes)


def _checker(x, y, softness):
    waves = [
        (np.sin(np.pi * u) / (np.pi * softness)).clip(-0.5, 0.5).astype(np.float32) for u in (x, y)
    ]
    return 0.5 + 2 * waves[0] * waves[1]


def _dots(x, y, softness):
    row = np.floor(y)
    across = x + 0.5 * (row % 2)
    distance = np.sqrt((across - np.floor(across) - 0.5) ** 2 + (y - row - 0.5) ** 2) - 0.33
    return (0.5 - distance / softness).clip(0, 1)


_PATTERNS = {"checker": _checker, "dots": _dots}
