"""Precision of the matrix products of the contrastive losses.

A product in TF32 or bf16 rounds its operands. If each product rounded them, the positives, which
are summed separately from the tiles, would use other numbers than the tiles, and in a nearly solved
batch the gradient is a difference of the two. The operands are therefore rounded once, here, and
all later steps use the rounded rows; sums stay in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Precision = Literal["auto", "fp32", "tf32", "bf16"]
"""Values of the option ``precision`` of a loss."""

_MULTIPLIES_HALF: Final = hasattr(torch.ops.aten.mm, "dtype")
"""Whether torch has products of bf16 matrices that return fp32 (2.8 and later)."""


@dataclass(frozen=True, slots=True)
class Products:
    """Products of fp32 matrices with operands of one precision and sums in fp32."""

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # precision of the operands

    @property
    def is_exact(self) -> bool:
        """Whether operands are not rounded."""
        return self.precision == "fp32"

    def rounded(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Round to the precision of the operands; the data type stays.

        Examples:
            >>> Products("bf16").rounded(torch.tensor([1.0, 1.001])).tolist()
            [1.0, 1.0]
        """
        if self.is_exact or values.dtype == torch.float64:
            return values
        if self.precision == "bf16":
            return values.to(torch.bfloat16).to(values.dtype)
        # 10 of fp32's 23 bits of the mantissa, to the nearest
        bits = values.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(values.dtype)

    def operand(self, rounded: Float[Tensor, "*shape"]) -> Tensor:
        """Return rounded values in the data type of the products; made once, used by all tiles."""
        return rounded.to(torch.bfloat16) if self._in_half(rounded) else rounded

    def multiply(self, left: Tensor, right: Tensor) -> Float[Tensor, "rows columns"]:
        """Compute ``left @ right`` of two operands, in fp32 (fp64 for fp64)."""
        if left.dtype == torch.bfloat16:
            return torch.mm(left, right, out_dtype=torch.float32)
        return left @ right

    def add_product(self, to: Float[Tensor, "rows D"], weights: Tensor, right: Tensor) -> None:
        """Compute ``to += weights @ right`` in place; both factors are operands."""
        if right.dtype == torch.bfloat16:
            to += self.multiply(weights, right)
        else:
            to.addmm_(weights, right)

    @contextmanager
    def switched(self) -> Iterator[None]:
        """Set torch's precision of fp32 products, and restore it.

        A compiled graph cannot: the caller of the graph sets the precision of all its products.
        """
        if torch.compiler.is_compiling():
            yield
            return
        before = torch.get_float32_matmul_precision()
        # CPUs multiply rounded operands in fp32: "high" would let some of them round more
        use_tf32 = not self.is_exact and torch.cuda.is_available()
        torch.set_float32_matmul_precision("high" if use_tf32 else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _in_half(self, values: Tensor) -> bool:
        return (
            self.precision == "bf16"
            and _MULTIPLIES_HALF
            and values.is_cuda
            and values.dtype == torch.float32
        )


EXACT: Final = Products()
"""fp32 throughout."""


def choose_products(precision: Precision, device: torch.device) -> Products:
    """Resolve "auto": TF32 on a GPU in a run of mixed precision, or if torch allows it.

    Call this outside of ``autocast(enabled=False)``.
    """
    if precision != "auto":
        return Products(precision)
    if device.type != "cuda":
        return Products("fp32")
    mixed = torch.is_autocast_enabled("cuda")
    allowed = torch.get_float32_matmul_precision() != "highest"
    return Products("tf32" if mixed or allowed else "fp32")
