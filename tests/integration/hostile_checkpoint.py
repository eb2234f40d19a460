"""Random changes to a checkpoint's files: bytes, JSON, tensors, headers and manifests."""

import copy
import hashlib
import json
import random
import struct
from collections.abc import Callable

import safetensors.torch
import torch

from video_vq.stores.files import readable_json

TENSOR_FILES = ("model", "averages", "optimizer", "random", "usage")
Files = dict[str, bytes]


def listed(files: Files) -> Files:
    """Return the files with a matching manifest."""
    hashes = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in files.items()
        if name != "manifest.json"
    }
    manifest = readable_json({"step": 20, "sha256": hashes})
    return {"manifest.json": manifest, **{k: v for k, v in files.items() if k != "manifest.json"}}


def damaged_bytes(files: Files, other: Files, rng: random.Random) -> Files:
    """Return the files after damaging, swapping or replacing some without a matching manifest."""
    name, second = rng.sample(sorted(files), 2)
    data = files[name]
    place, size = rng.randrange(len(data)), rng.randrange(1, 64)
    kinds: dict[str, Callable[[], Files]] = {
        "flip": lambda: {
            name: data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        },
        "remove": lambda: {name: data[:place] + data[place + size :]},
        "add": lambda: {name: data[:place] + rng.randbytes(size) + data[place:]},
        "truncate": lambda: {name: data[:place]},
        "empty": lambda: {name: b""},
        "swap": lambda: {name: files[second], second: data},
        "other step": lambda: {name: other[name]},
        "other checkpoint": lambda: other,
        "noise": lambda: {name: rng.randbytes(len(data))},
    }
    return {**files, **kinds[rng.choice(sorted(kinds))]()}


ODD = (
    *(None, True, False, -1, 0, 1.5, 1e308, 10**30, 10**400, float("nan"), float("inf")),
    *("", "20", "nan", [], [1], {}, {"a": 1}, [[[]]], "\ud800"),
)


def edited_json(files: Files, other: Files, rng: random.Random) -> Files:
    """Return the files after changing state.json, with a matching manifest."""
    state = json.loads(files["state.json"])
    inside = rng.choice([state, state, state["health"]])
    key = rng.choice(sorted(inside))
    kind = rng.choice(["remove", "odd", "odd", "odd", "number", "add", "all", "deep"])
    if kind == "remove":
        del inside[key]
    elif kind == "odd":
        inside[key] = copy.deepcopy(rng.choice(ODD))
    elif kind == "number":
        inside["best"] = [rng.choice(ODD), rng.choice(ODD)]
    elif kind == "add":
        inside["evil"] = rng.choice(ODD)
    text = json.dumps(rng.choice(ODD) if kind == "all" else state)
    if kind == "deep":
        text = "[" * 100_000
    return listed({**files, "state.json": text.encode()})


def edited_tensors(files: Files, other: Files, rng: random.Random) -> Files:
    """Return the files after changing tensors or a whole tensor file, with a matching manifest."""
    stem, second = rng.sample(TENSOR_FILES, 2)
    tensors = safetensors.torch.load(files[f"{stem}.safetensors"])
    name, another = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
    value = tensors[name]
    kind = rng.choice(["remove", "rename", "add", "dtype", "shape", "nan", "swap", "file", "big"])
    if kind in ("remove", "rename"):
        del tensors[name]
    if kind == "rename":
        tensors[rng.choice(["0.evil", "²", "-1.step", "", name + "x", "cpu.9"])] = value
    elif kind == "add":
        tensors[rng.choice(["evil", "99999999999999999999.exp_avg", "cuda.0"])] = value.clone()
    elif kind == "dtype":
        dtypes = [torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.float8_e4m3fn]
        tensors[name] = value.to(rng.choice(dtypes))
    elif kind == "shape":
        tensors[name] = rng.choice([value.flatten()[:0], value.flatten()[:1], value[None]]).clone()
    elif kind == "nan" and value.is_floating_point():
        tensors[name] = torch.full_like(value, rng.choice([torch.nan, torch.inf]))
    elif kind == "swap":
        tensors[name], tensors[another] = tensors[another], value
    elif kind == "big":
        tensors[name] = torch.zeros(1 << 20)
    data = files[f"{second}.safetensors"] if kind == "file" else safetensors.torch.save(tensors)
    return listed({**files, f"{stem}.safetensors": data})


def edited_header(files: Files, other: Files, rng: random.Random) -> Files:
    """Return the files after falsifying a safetensors header, with a matching manifest."""
    file = f"{rng.choice(TENSOR_FILES)}.safetensors"
    size = struct.unpack("<Q", files[file][:8])[0]
    header, body = json.loads(files[file][8 : 8 + size]), files[file][8 + size :]
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    kind = rng.choice(["size", "shape", "dtype", "offsets", "text"])
    if kind == "shape":
        absurd = [[1 << 62], [1 << 32, 1 << 32], [-1], [0, 1 << 62], [1] * 100, "4", [1.5], None]
        entry["shape"] = rng.choice(absurd)
    elif kind == "dtype":
        entry["dtype"] = rng.choice(["F4", "F64", "O", "", None, "C64", "F8_E8M0"])
    elif kind == "offsets":
        entry["data_offsets"] = rng.choice(
            [[0, 1 << 62], [1 << 62, 1 << 63], [8, 0], [-8, 0], [0, 0], [], "0"]
        )
    text = json.dumps(header).encode()
    if kind == "text":
        text = rng.choice([b"", b"[]", b"{", b"\xff" * 9, b"[" * 100_000, text + text])
    length = len(text)
    if kind == "size":
        length = rng.choice([0, 1, length - 1, length + 1, 1 << 27, 1 << 40, (1 << 63), 2**64 - 1])
    return listed({**files, file: struct.pack("<Q", length) + text + body})


def edited_manifest(files: Files, other: Files, rng: random.Random) -> Files:
    """Return the files with an invalid manifest, or without one of the files and its entry."""
    manifest = json.loads(files["manifest.json"])
    kind = rng.choice(["missing", "step", "sha256", "path", "one", "all"])
    if kind == "missing":
        gone = rng.choice([name for name in files if name != "manifest.json"])
        return listed({name: data for name, data in files.items() if name != gone})
    if kind in ("step", "sha256"):
        manifest[kind] = rng.choice(ODD)
    elif kind == "path":
        manifest["sha256"][rng.choice(["../../run.json", "/etc/passwd", "", "\0"])] = "0" * 64
    elif kind == "one":
        manifest["sha256"][rng.choice(sorted(manifest["sha256"]))] = rng.choice(ODD)
    value = rng.choice(ODD) if kind == "all" else manifest
    return {**files, "manifest.json": json.dumps(value).encode()}


MUTATIONS: list[tuple[Callable[[Files, Files, random.Random], Files], int]] = [
    (damaged_bytes, 100),
    (edited_json, 70),
    (edited_tensors, 60),
    (edited_header, 50),
    (edited_manifest, 20),
]
