"""Test of the Triton kernel against the reference, in Triton's interpreter on the CPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# In a process of its own: Triton reads TRITON_INTERPRET when the kernel is defined, and wants the
# kernel's source as it stands, not as instrumented for shape checks.
CHECK = """
import torch
from video_vq.quantizers.lookup import nearest_codes

generator = torch.Generator().manual_seed(0)
for n, k, d in [(1, 1, 1), (100, 300, 5), (257, 1000, 64), (64, 65, 100), (300, 512, 16)]:
    x, c = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    found, expected = nearest_codes(x, c, "triton"), nearest_codes(x, c)
    assert found.dtype == expected.dtype == torch.int64
    differ = found != expected
    distance = (x.double()[:, None] - c.double()[None]).square().sum(2)
    gap = distance.gather(1, found[:, None]) - distance.gather(1, expected[:, None])
    assert float(gap.abs().max()) < 1e-5, (n, k, d)
    assert int(differ.sum()) <= n // 1000
c = torch.arange(32.0).view(8, 4) % 11  # products are exact, whatever the order of the sums
assert nearest_codes(c, c.repeat(40, 1), "triton").tolist() == list(range(8))  # ties
with torch.autocast("cpu", dtype=torch.bfloat16):
    assert torch.equal(nearest_codes(x.bfloat16(), c[:, :1].repeat(1, 16), "triton"),
                       nearest_codes(x.bfloat16(), c[:, :1].repeat(1, 16)))
print("agrees")
"""


def test_the_kernel_agrees_with_the_reference_in_the_interpreter():
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHECK],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "agrees\n", answer.stderr
