"""The fused passes, in Triton's interpreter, against their plain form."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

CHECK = """
import sys, torch
from clipkit.losses import tile_body, tile_kernels
# sizes that no block divides; what no row has seen yet is -inf
for height, width, scale in ((1, 1, 1.0), (7, 33, 100.0), (130, 70, 100.0), (65, 1100, 30.0)):
    generator = torch.Generator().manual_seed(height)
    logits = scale * torch.rand(height, width, generator=generator) - scale / 2
    logits[0, 1:2] = -torch.inf
    pair = [[torch.full((n,), -torch.inf) for n in logits.shape] for _ in range(2)]
    for module, (row, column) in zip((tile_body, tile_kernels), pair):
        module.add_logsumexp(logits, row, column)
        module.add_logsumexp(logits + 1, row, column)
    torch.testing.assert_close(pair[1], pair[0], rtol=1e-6, atol=1e-5)
    row, column = pair[0]
    row[-1] = torch.inf
    for partner in (None, 0, 3, -5, 5000):
        for dtype in (torch.float32, torch.bfloat16):
            near = {"rtol": 1e-4 if dtype == torch.float32 else 1e-2, "atol": 1e-6}
            a, b = (m.softmax_weights(logits, row, column, partner, dtype)
                    for m in (tile_body, tile_kernels))
            torch.testing.assert_close(b, a, **near)
            bias = torch.tensor(-3.0)
            a, b = (m.sigmoid_weights(logits.clone(), bias, partner, dtype)
                    for m in (tile_body, tile_kernels))
            torch.testing.assert_close(b, a, **near)
print("equal")
"""


def test_kernels_equal_the_plain_form_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
