"""Compares our ST-LPIPS with the original package; docs/results.md has the results.

    pip install --no-deps --target original stlpips-pytorch==0.0.2
    python experiments/compare_st_lpips.py original

This executes the original package's code.
"""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from video_vq.metrics.perceptual import TRUNKS, load_st_lpips

SIZES = ((18, 40), (21, 21), (32, 32), (33, 47), (64, 64), (61, 80), (128, 128), (224, 224))
# Imported by the package, but not used by its shift-tolerant variants.
UNUSED = ("torchvision", "torchvision.models", "IPython", "torchsummary")


def main() -> None:
    original = import_original(Path(sys.argv[1]))
    for trunk, facts in TRUNKS.items():
        theirs = original.LPIPS(net=trunk, variant="shift_tolerant", verbose=False)
        ours = load_st_lpips(trunk)
        for kind in ("noise", "smooth", "nearly equal"):
            found, expected = [], []
            for size_hw in SIZES:
                if min(size_hw) >= facts.min_size:
                    pair = pictures(kind, size_hw)
                    with torch.no_grad():
                        found.append(ours(*pair))
                        expected.append(theirs(*pair).flatten())
            a, b = torch.cat(found).double(), torch.cat(expected).double()
            print(
                f"{trunk:<5} {kind:<13} {b.min():.2e} to {b.max():.2e}: largest difference "
                f"{(a - b).abs().max():.1e}, relative {((a - b).abs() / b).max():.1e}"
            )


def import_original(folder: Path) -> Any:
    for name in UNUSED:
        stand_in: Any = types.ModuleType(name)
        stand_in.embed = stand_in.summary = stand_in.models = None
        sys.modules[name] = stand_in
    sys.path.insert(0, str(folder))
    return importlib.import_module("stlpips_pytorch.stlpips")


def pictures(kind: str, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size_hw))
    x, y = (torch.rand(2, 3, *size_hw, generator=generator) * 2 - 1 for _ in range(2))
    if kind == "noise":
        return x, y
    x, y = (F.interpolate(v[..., :4, :4], size_hw, mode="bicubic").clamp(-1, 1) for v in (x, y))
    if kind == "smooth":
        return x, y
    return x, (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


if __name__ == "__main__":
    main()
