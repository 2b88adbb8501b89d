"""The fused passes, in Triton's interpreter, against their plain form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ranks import run_ranks

pytest.importorskip("triton")

CHECK = """
import sys, torch
from clipkit.losses.kernels import tile_body, tile_kernels
# sizes that no block divides, the last of several blocks; what no row has seen yet is -inf
for height, width, scale in ((1, 1, 1.0), (7, 33, 100.0), (65, 1100, 100.0)):
    generator = torch.Generator().manual_seed(height)
    logits = scale * torch.rand(height, width, generator=generator) - scale / 2
    logits[0, 1:2] = -torch.inf
    pair = [[torch.full((n,), -torch.inf) for n in logits.shape] for _ in range(2)]
    for module, (row, column) in zip((tile_body, tile_kernels), pair):
        module.add_logsumexp(logits, row, column)
        module.add_logsumexp(logits + 1, row, column)
    torch.testing.assert_close(pair[1], pair[0], rtol=1e-6, atol=1e-5)
    row, column = pair[0]
    logits, row = logits[:7], row[:7]  # some blocks, which are of points
    row[-1] = torch.inf
    partners = (None, 0, -5, 5000) if width < 1000 else (3,)
    for partner, dtype in [*((p, torch.float32) for p in partners), (3, torch.bfloat16)]:
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


def compiled(kernel: Any, constants: dict[str, int], output: str) -> str:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {
        "logits": "*fp32",
        "row": "*fp32",
        "column": "*fp32",
        "of_rows": "*fp32",
        "of_columns": "*fp32",
        "partial": "*fp32",
        "total": "*fp32",
        "bias": "*fp32",
        "sums": "*fp32",
        "weights": output,
    }
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    places = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    ptx: str = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    return ptx


def compile_all(rank: int, world_size: int) -> list[bool]:
    from clipkit.losses.kernels import tile_kernels as kernels

    return [
        "sm_90" in compiled(kernel, constants, output)
        for output in ("*fp32", "*bf16")
        for kernel, constants in (
            (kernels._partial_logsumexp, {"ROWS": 64, "SPAN": 1024, "COLUMNS": 64}),
            (kernels._combine, {"COMBINED": 64}),
            (kernels._softmax_weights, {"POINTS": 1024}),
            (kernels._sigmoid_weights, {"POINTS": 1024}),
        )
    ]


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


def test_kernels_compile_for_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # nothing compiled before
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert run_ranks(compile_all, 1, joined=False) == [[True] * 8]
