"""Synthetic clips: camera moves over pictures or drawn pages, moving objects, noise and fades."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHORT_SIDES = (80, 113, 160, 226, 320, 452, 640)  # of a picture's copies, in pixels
BORDER = 64  # mirrored pixels around each copy, so that a camera may leave the picture
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:!?"


def pyramid(picture: Image.Image) -> list[Image.Image]:
    """Return copies of a picture scaled down to SHORT_SIDES, with mirrored borders.

    A picture below the smallest size is scaled up to this size.
    """
    levels: list[Image.Image] = []
    for short in SHORT_SIDES:
        scale = short / min(picture.size)
        if scale > 1 and levels:
            break
        size = [max(short, round(side * scale)) for side in picture.size]
        small = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        around = (BORDER, BORDER)
        bordered = np.pad(np.asarray(small), (around, around, (0, 0)), "reflect")
        levels.append(Image.fromarray(bordered))
    return levels


def camera_move(
    levels: Sequence[Image.Image], random: np.random.Generator, num_frames: int, size: int
) -> np.ndarray:
    """Film a picture with a camera that pans, zooms and turns, or stands still in one clip of five.

    Args:
        levels: the picture's copies, from `pyramid`.

    Returns:
        The uint8 frames, t h w 3.
    """
    largest = min(levels[-1].size) - 2 * BORDER
    short = math.exp(random.uniform(math.log(72), math.log(max(73, largest))))
    level = next((one for one in levels if min(one.size) - 2 * BORDER >= short), levels[-1])
    zoom = (min(level.size) - 2 * BORDER) / short  # pixels of the copy per pixel of the clip
    half = size / 2 * zoom
    low, high = BORDER + half, np.array(level.size) - BORDER - half
    centre = low + random.uniform(0, 1, 2) * np.maximum(high - low, 0)
    moves = random.random() > 0.2
    fast = random.choice([0.6, 2.0, 4.0])
    speed = random.normal(0, fast / 1.5, 2) * moves
    shake = random.uniform(0, 0.6) * moves * (random.random() < 0.4)
    zooming = random.normal(0, 0.015) * moves * (random.random() < 0.6)
    turning = random.normal(0, 0.02) * moves * (random.random() < 0.5)
    angle = random.normal(0, 0.15) if random.random() < 0.5 else 0.0
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for t in range(num_frames):
        middle = t - num_frames / 2
        scale = zoom * math.exp(zooming * middle)
        turn = angle + turning * middle
        place = centre + (speed * middle + random.normal(0, shake, 2)) * zoom
        reach = size / 2 * scale * 1.42
        place = np.clip(place, np.minimum(reach, level.size), np.array(level.size) - reach)
        c, s = scale * math.cos(turn), scale * math.sin(turn)
        x = place[0] - (c - s) * size / 2
        y = place[1] - (s + c) * size / 2
        frame = level.transform(
            (size, size), Image.Transform.AFFINE, (c, -s, x, s, c, y), Image.Resampling.BICUBIC
        )
        frames[t] = np.asarray(frame)
    return frames


def objects_in_front(
    frames: np.ndarray, stamps: Sequence[Image.Image], random: np.random.Generator
) -> np.ndarray:
    """Move one to three cut-out objects (RGBA) over a clip, each along its own path."""
    size = frames.shape[1]
    pictures = [Image.fromarray(frame) for frame in frames]
    for _ in range(int(random.integers(1, 4))):
        stamp = stamps[int(random.integers(len(stamps)))]
        side = math.exp(random.uniform(math.log(10), math.log(60)))
        scale = side / max(stamp.size)
        shape = (max(2, round(stamp.width * scale)), max(2, round(stamp.height * scale)))
        stamp = stamp.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3.0)
        place = random.uniform(-side / 2, size - side / 2, 2)
        speed = random.normal(0, 1.5, 2) * (random.random() < 0.85)
        swing = random.uniform(0, 3, 2) * (random.random() < 0.3)
        period = random.uniform(6, 24)
        turning = random.normal(0, 4) * (random.random() < 0.4)
        for t, picture in enumerate(pictures):
            now = stamp
            if turning:
                now = stamp.rotate(turning * t, Image.Resampling.BICUBIC, expand=True)
            at = place + speed * t + swing * math.sin(2 * math.pi * t / period)
            left = round(at[0] - (now.width - stamp.width) / 2)
            top = round(at[1] - (now.height - stamp.height) / 2)
            picture.paste(now, (left, top), now)
    return np.stack([np.asarray(picture) for picture in pictures])


def recolour(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Change the brightness, contrast and tint of a clip, with one lookup table per channel."""
    gamma = math.exp(random.normal(0, 0.25))
    gains = np.exp(random.normal(0, 0.08, 3)) * math.exp(random.normal(0, 0.12))
    lift = random.normal(0, 0.03)
    ramp = np.linspace(0, 1, 256)[:, None] ** gamma * gains + lift
    table = np.clip(np.rint(ramp * 255), 0, 255).astype(np.uint8)
    return np.stack([table[frames[..., channel], channel] for channel in range(3)], -1)


def grain(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add camera noise with a standard deviation of 1 to 8 gray levels."""
    noise = random.normal(0, random.uniform(1, 8), frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def page(random: np.random.Generator, side: int = 320) -> Image.Image:
    """Draw a page of text, shapes or stripes over which a camera can move."""
    first, second = (tuple(int(v) for v in random.integers(0, 256, 3)) for _ in range(2))
    blend = np.linspace(0, 1, side)[:, None, None] * np.ones((1, side, 1))
    if random.random() < 0.5:
        blend = blend.transpose(1, 0, 2)
    ground = np.array(first) * (1 - blend) + np.array(second) * blend
    if random.random() < 0.5:
        ground = np.zeros((side, side, 3)) + np.array(first)
    picture = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    kind = random.choice(["text", "text", "shapes", "stripes"])
    if kind == "text":
        height = int(random.integers(9, 40))
        font = ImageFont.load_default(height)
        ink = tuple(int(v) for v in random.integers(0, 256, 3))
        if random.random() < 0.6:
            ink = (0, 0, 0) if np.mean(first) > 127 else (255, 255, 255)
        for row in range(-2, side, round(height * 1.25)):
            letters = random.choice(list(LETTERS + " " * 14), 60)
            draw.text((int(random.integers(-10, 10)), row), "".join(letters), ink, font)
        return picture
    for number in range(int(random.integers(6, 30))):
        ink = tuple(int(v) for v in random.integers(0, 256, 3))
        x, y = random.uniform(0, side, 2)
        if kind == "stripes":
            width = int(random.integers(1, 14))
            across = number * 2.2 * width
            slope = random.normal(0, 3)
            draw.line([(across, 0), (across + slope, side)], ink, width)
            continue
        corners = int(random.integers(2, 7))
        turns = np.sort(random.uniform(0, 2 * math.pi, corners))
        reach = random.uniform(6, 60)
        points = [(x + reach * math.cos(turn), y + reach * math.sin(turn)) for turn in turns]
        if corners == 2:
            draw.line(points, ink, int(random.integers(1, 6)))
        elif corners == 3:
            draw.ellipse([x - reach, y - reach / 2, x + reach, y + reach / 2], ink)
        else:
            draw.polygon(points, ink)
    return picture


def noise(random: np.random.Generator, num_frames: int, size: int) -> np.ndarray:
    """Return a clip of noise around a color, with random scale and contrast, moving or still."""
    cells = int(random.choice([2, 4, 8, 16, 32, 64]))
    mean = random.uniform(20, 235, 3)
    channels = 3 if random.random() < 0.5 else 1
    spread = random.uniform(0, 45)
    still = random.random() < 0.5
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    field = random.normal(0, spread, (cells, cells, channels))
    change = random.uniform(0.05, 1.0)
    for t in range(num_frames):
        if t and not still:
            fresh = random.normal(0, spread, (cells, cells, channels))
            field = math.sqrt(1 - change**2) * field + change * fresh
        coarse = np.clip(mean + field, 0, 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        frames[t] = np.asarray(smooth)
    return frames


def fade(first: np.ndarray, second: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Cut or fade between two clips, or fade the first one to or from black or white."""
    num_frames = len(first)
    kind = random.choice(["cross", "cut", "black", "white"])
    start = random.uniform(-0.3, 0.7) * num_frames
    length = 0.01 if kind == "cut" else random.uniform(4, num_frames)
    share = np.clip((np.arange(num_frames) - start) / length, 0, 1)[:, None, None, None]
    if random.random() < 0.5 and kind != "cut":
        share = 1 - share
    other = {"black": np.zeros_like(first), "white": np.full_like(first, 255)}.get(kind, second)
    return np.rint(first * (1 - share) + other * share).astype(np.uint8)
