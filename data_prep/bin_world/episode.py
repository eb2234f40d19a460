"""Simulation of a pushing episode with random, persistent actions, filmed by two cameras."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from data_prep.bin_world.graphics import bindings
from data_prep.bin_world.scene import (
    BIN_HALF,
    LINK_LENGTH,
    SHOULDER,
    TIMESTEP,
    WRIST_HEIGHT,
    draw_bin,
    mjcf,
)

SIMULATOR_VERSION = 1  # increases with every change of a pixel or an action
NUM_FRAMES, SIZE = 30, 64
FRAME_SECONDS = 0.16
SETTLE_SECONDS = 0.6  # time for the objects to come to rest before the first frame
OVERSAMPLING = 2  # images are rendered larger and averaged, so multisampling is not needed
CAMERAS = ("main", "aux1")

# Commands keep the hand inside this box, in meters, which lies within the walls of the bin.
REACH = BIN_HALF - 0.045
LOW, HIGH = 0.006, 0.11
MAX_STEP = 0.034  # largest change of x and y per frame, in meters
MAX_TURN = 0.30  # largest turn per frame, in radians
KEEP_FRAMES = (3, 8)  # bounds (upper one exclusive) on the frames for which a velocity is kept
LIFTED = 0.2  # probability that a new velocity raises the hand


@dataclass(frozen=True)
class Episode:
    """A simulated episode.

    Attributes:
        frames: uint8 RGB frames of each camera.
        actions: commanded change from each frame to the next, t 4: x, y and z in meters, and
            rotation about the vertical axis in radians.
        positions: x, y, z of the point between the fingertips in each frame, in meters.
        moved: largest distance between each object's center and its position in the first frame,
            in meters.
    """

    frames: dict[str, UInt8[np.ndarray, "t h w 3"]]
    actions: Float32[np.ndarray, "t 4"]
    positions: Float32[np.ndarray, "t 3"]
    moved: Float64[np.ndarray, " n"]


def draw_actions(
    rng: np.random.Generator, start: tuple[float, float, float, float], num_frames: int
) -> Float64[np.ndarray, "t 4"]:
    """Return the commands of a random walk in which the hand keeps each velocity for some frames.

    A command that would move the hand out of its box (REACH, LOW, HIGH) is clipped. If x or y was
    clipped, a new velocity is drawn for the next frame.

    Args:
        rng: random generator of the episode.
        start: initial x, y, z (in meters) and rotation (in radians) of the hand.
        num_frames: number of commands.
    """
    place, actions = np.array(start), np.empty((num_frames, 4))
    lowest, highest = np.array([-REACH, -REACH, LOW]), np.array([REACH, REACH, HIGH])
    velocity, level, left = np.zeros(4), LOW, 0
    for frame in range(num_frames):
        if left == 0:
            heading, speed = rng.uniform(-math.pi, math.pi), MAX_STEP * rng.uniform(0.45, 1.0)
            # Steer away from a nearby border, so that the hand soon returns to the middle, where
            # the objects are.
            inward = -place[:2] / REACH
            towards = np.array([math.cos(heading), math.sin(heading)]) + inward * rng.uniform(0, 1)
            level = rng.uniform(0.06, HIGH) if rng.random() < LIFTED else LOW
            left = int(rng.integers(*KEEP_FRAMES))
            velocity[:2] = speed * towards / max(float(np.hypot(*towards)), 1e-6)
            velocity[2] = (level - place[2]) / 2
            velocity[3] = rng.uniform(-MAX_TURN, MAX_TURN)
        wanted = place + velocity
        wanted[2] = level if abs(level - place[2]) < abs(velocity[2]) else wanted[2]
        reached = wanted.copy()
        reached[:3] = wanted[:3].clip(lowest, highest)
        left = 0 if (reached[:2] != wanted[:2]).any() else left - 1
        actions[frame] = reached - place
        place = reached
    return actions


class Renderer:
    """Renderer that draws images of successive models with a single OpenGL context.

    Args:
        pixels: side of the square images, in pixels.
    """

    def __init__(self, pixels: int):
        mujoco = bindings()
        self._pixels = pixels
        self._context: Any = mujoco.GLContext(pixels, pixels)
        self._context.make_current()
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def open(self, model: Any) -> None:
        """Load the model that `draw` renders."""
        mujoco = bindings()
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        self._loaded = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._loaded)

    def draw(self, data: Any, camera: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image from a camera.

        Args:
            data: MuJoCo state of the loaded model.
            camera: index of the camera in the model.
        """
        mujoco = bindings()
        side = self._pixels
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._camera, everything, self._scene
        )
        view, picture = mujoco.MjrRect(0, 0, side, side), np.empty((side, side, 3), np.uint8)
        mujoco.mjr_render(view, self._scene, self._loaded)
        mujoco.mjr_readPixels(picture, None, view, self._loaded)
        return picture[::-1]

    def close(self) -> None:
        """Free the OpenGL context; the process may then create another renderer."""
        self._loaded.free()
        self._context.free()


def simulate_episode(renderer: Renderer, seed: int, side: int, index: int) -> Episode:
    """Simulate and render one episode.

    On a given machine, equal arguments give equal bytes.

    Args:
        renderer: renderer of this process.
        seed: seed of the data set.
        side: 0 for the train split, 1 for the test split.
        index: index of the episode within its split.
    """
    mujoco = bindings()
    rng = np.random.default_rng([seed, side, index])
    scene = draw_bin(rng)
    actions = draw_actions(rng, scene.hand, NUM_FRAMES)
    model = mujoco.MjModel.from_xml_string(mjcf(scene, OVERSAMPLING * SIZE))
    data = mujoco.MjData(model)
    renderer.open(model)
    target = np.array(scene.hand)
    _settle(model, data, target)
    places = np.array([model.body(f"object{n}").id for n in range(len(scene.bodies))], int)
    start, moved = data.xpos[places].copy(), np.zeros(len(places))
    frames = {name: np.empty((NUM_FRAMES, SIZE, SIZE, 3), np.uint8) for name in CAMERAS}
    positions = np.empty((NUM_FRAMES, 3), np.float32)
    for frame in range(NUM_FRAMES):
        _pose_arm(model, data)
        for number, name in enumerate(CAMERAS):
            frames[name][frame] = _shrunk(renderer.draw(data, number))
        positions[frame] = data.qpos[:3]
        moved = np.maximum(moved, np.linalg.norm(data.xpos[places] - start, axis=1))
        _advance(model, data, target, target + actions[frame])
        target = target + actions[frame]
    return Episode(frames, actions.astype(np.float32), positions, moved)


def _settle(model: Any, data: Any, hand: np.ndarray) -> None:
    mujoco = bindings()
    data.qpos[:4] = data.ctrl[:4] = hand
    for _ in range(round(SETTLE_SECONDS / TIMESTEP)):
        mujoco.mj_step(model, data)


def _advance(model: Any, data: Any, before: np.ndarray, after: np.ndarray) -> None:
    mujoco = bindings()
    steps = round(FRAME_SECONDS / TIMESTEP)
    for step in range(1, steps + 1):
        data.ctrl[:4] = before + (after - before) * (step / steps)
        mujoco.mj_step(model, data)


def _pose_arm(model: Any, data: Any) -> None:
    """Place the two arm links between shoulder and wrist, with the elbow up."""
    mujoco = bindings()
    wrist = data.qpos[:3] + np.array((0.0, 0.0, WRIST_HEIGHT))
    shoulder = np.array(SHOULDER)
    reach = wrist - shoulder
    length = float(np.linalg.norm(reach))
    half = min(length / 2, 0.999 * LINK_LENGTH)
    side = np.cross(reach, (0.0, 0.0, 1.0))
    bend = np.cross(side, reach)
    rise = math.sqrt(LINK_LENGTH**2 - half**2)
    elbow = shoulder + 0.5 * reach + bend * (rise / max(float(np.linalg.norm(bend)), 1e-9))
    for name, foot, head in (("upper_arm", shoulder, elbow), ("forearm", elbow, wrist)):
        mocap = model.body(name).mocapid[0]
        data.mocap_pos[mocap] = foot
        mujoco.mju_quatZ2Vec(data.mocap_quat[mocap], head - foot)
    mujoco.mj_kinematics(model, data)


def _shrunk(picture: UInt8[np.ndarray, "a b 3"]) -> UInt8[np.ndarray, "h w 3"]:
    squares = picture.reshape(SIZE, OVERSAMPLING, SIZE, OVERSAMPLING, 3)
    return (squares.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
