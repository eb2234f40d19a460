"""Conversion of the original I3D checkpoint, whose pickle is read without being executed."""

import io
import pickle
from typing import Any

import numpy as np

from video_vq.errors import InputError
from video_vq.metrics.pinned import encode_safetensors

# Names in the checkpoint -> names in video_vq.metrics.i3d.
BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "branch_0",
    "Branch_1/Conv3d_0a_1x1": "branch_1.0",
    "Branch_1/Conv3d_0b_3x3": "branch_1.1",
    "Branch_2/Conv3d_0a_1x1": "branch_2.0",
    "Branch_2/Conv3d_0b_3x3": "branch_2.1",
    "Branch_3/Conv3d_0b_1x1": "branch_3.1",
}
LEAVES = {
    ("Conv_0", "kernel"): "weight",
    ("Conv_0", "bias"): "bias",
    ("BatchNorm_0", "bias"): "shift",
    ("BatchNorm_0", "mean"): "mean",
    ("BatchNorm_0", "var"): "variance",
}


class _Inert:
    """Placeholder for numpy's array and dtype during unpickling; stores arguments and state."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RefusingUnpickler(pickle.Unpickler):
    """Unpickler that builds only plain containers, and placeholders for the allowed numpy names."""

    # numpy 2 renamed numpy.core to numpy._core.
    KNOWN = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.KNOWN:
            raise InputError(
                f"the checkpoint asks for {module_name}.{global_name}; only its arrays are read, "
                "and nothing is executed: delete the file and fetch the weights again"
            )
        return _Inert


def read_checkpoint(data: bytes) -> dict[tuple[str, ...], np.ndarray]:
    """Return a pickled checkpoint's float32 arrays by their nested keys, without executing code.

    Raises:
        InputError: the pickle is damaged, or contains anything other than little-endian float32
            arrays in C order.
    """
    try:
        tree = _RefusingUnpickler(io.BytesIO(data)).load()
    except InputError:
        raise
    except Exception as error:  # pickle says that a damaged file may raise anything
        raise InputError(f"the checkpoint is not a readable pickle: {error}") from None
    arrays: dict[tuple[str, ...], np.ndarray] = {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending += [((*path, str(key)), inner) for key, inner in value.items()]
        else:
            arrays[path] = _array(path, value)
    return arrays


def _array(path: tuple[str, ...], value: Any) -> np.ndarray:
    """Rebuild an array from numpy's pickled state: (version, shape, dtype, fortran, bytes)."""
    try:
        _, shape, dtype, is_fortran, raw = value.state
        code, byte_order = dtype.arguments[0], dtype.state[1]
        if code != "f4" or byte_order != "<" or is_fortran:
            raise TypeError(f"{byte_order}{code}, Fortran order: {is_fortran}")
        return np.frombuffer(raw, "<f4").reshape(shape)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the checkpoint's {'/'.join(path)} is not a float32 array: {error}"
        ) from None


def to_safetensors(arrays: dict[tuple[str, ...], np.ndarray], source: str) -> bytes:
    """Return a safetensors file for video_vq.metrics.i3d.I3D, reproducible to the byte.

    Args:
        arrays: arrays returned by `read_checkpoint`.
        source: origin of the arrays, recorded in the file's header.
    """
    return encode_safetensors(_port_names(arrays), source)


def _port_names(arrays: dict[tuple[str, ...], np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the arrays for video_vq.metrics.i3d.I3D, and convert kernels to PyTorch's layout."""
    ported = {}
    for (_, scope, *rest), array in arrays.items():
        *branch, module, leaf = rest
        if scope == "Logits/Conv3d_0c_1x1":
            prefix = "logits"
        else:
            prefix = ".".join(["layers", scope, *(BRANCHES[name] for name in branch)])
        name = LEAVES[module, leaf]
        # (kT, kH, kW, in, out) -> (out, in, kT, kH, kW); statistics are 1 1 1 1 c.
        layout = array.transpose(4, 3, 0, 1, 2) if name == "weight" else array.reshape(-1)
        ported[f"{prefix}.{name}"] = np.ascontiguousarray(layout)
    return ported
