"""What every term of the objective has to pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses import LossTerm
from clipkit.types import Batch, Embeddings
from tests.helpers.loss_cases import CASES, Case, Inputs, Oracle, make_inputs
from tests.helpers.oracles import assert_close, value_and_gradients

FEW = settings(max_examples=12, deadline=None)
Result = tuple[Tensor, dict[str, Tensor]]


def differentiate(loss: LossTerm | Oracle, inputs: Inputs, batch: Batch) -> Result:
    """The value and the gradient of each input; 0 where a term does not use it."""

    def value(*leaves: Tensor) -> Tensor:
        terms = loss(Embeddings(**dict(zip(inputs, leaves, strict=True))), batch)
        # in the graph of every input, also of those that the term does not use
        return terms + sum(0 * leaf.sum() for leaf in leaves).to(terms)

    number, *gradients = value_and_gradients(value, list(inputs.values()))
    return number, dict(zip(inputs, gradients, strict=True))


def assert_same(got: Result, expected: Result, atol: float) -> None:
    assert_close([got[0], *got[1].values()], [expected[0], *expected[1].values()], atol)


def after_passes(case: Case, loss: LossTerm | Oracle, size: int, seed: int) -> None:
    """Fill the memory of a term, or of its oracle, that has one."""
    for number in range(1, case.passes):
        inputs, batch = make_inputs(case, size, seed + 100 * number)
        loss(Embeddings(**inputs), batch)


class LossTester:
    """Checks of one case: oracle, gradient, ranks, data types, empty batches, compiler, state."""

    @FEW
    @given(
        size=st.integers(2, 11),
        tile=st.none() | st.integers(1, 12),
        scale=st.floats(0.5, 100),
        negatives=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        seed=st.integers(0, 10_000),
    )
    def test_equals_its_oracle(self, name, size, tile, scale, negatives, seed):
        case = CASES[name]
        scale = min(scale, 20.0) if case.passes > 1 else scale  # exp(s_ij - s_ii) in the oracle
        loss, oracle = case.make(tile), case.oracle()
        for part in (loss, oracle):
            after_passes(case, part, size, seed)
        inputs, batch = make_inputs(case, size, seed, scale, negatives)
        expected = differentiate(oracle, inputs, batch)
        assert_same(differentiate(loss, inputs, batch), expected, case.atol * max(scale, 1))

    def test_gradient_is_that_of_the_value(self, name):
        case = CASES[name]
        loss = case.make(3).eval()
        inputs, batch = make_inputs(case, 6, scale=5.0)
        for tensor in inputs.values():
            tensor.requires_grad_()

        def value(*leaves):
            return loss(Embeddings(**dict(zip(inputs, leaves, strict=True))), batch)

        assert torch.autograd.gradcheck(value, tuple(inputs.values()), fast_mode=True)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_fp32(self, name, dtype):
        case = CASES[name]
        inputs, batch = make_inputs(case, 24, scale=30.0)
        inputs = {
            key: value.to(torch.float32 if value.ndim == 0 else dtype)
            for key, value in inputs.items()
        }
        exact = {key: value.double() for key, value in inputs.items()}
        expected = differentiate(case.oracle(), exact, batch)
        plain = differentiate(case.make(13), inputs, batch)
        with torch.autocast("cpu", dtype):
            mixed = differentiate(case.make(13), inputs, batch)
        assert_same(mixed, plain, 0.0)
        assert plain[0].dtype == torch.float32
        assert [g.dtype for g in plain[1].values()] == [value.dtype for value in inputs.values()]
        assert_close([plain[0]], [expected[0]], max(1e-4, case.atol))
        for key, gradient in plain[1].items():
            wanted = expected[1][key]  # rounded to the precision of its input
            largest = float(wanted.abs().max()) if wanted.numel() else 0.0
            error = max(1.0, largest) * max(torch.finfo(gradient.dtype).eps, 1e-4)
            assert_close([gradient], [wanted], error)

    @pytest.mark.parametrize("rows", ["equal", "opposite", "identical pairs"])
    @pytest.mark.parametrize("scale", [1.0, 100.0])
    def test_extreme_embeddings(self, name, rows, scale):
        case = CASES[name]
        inputs, batch = make_inputs(case, 12, scale=scale)
        image = inputs["image"]
        if rows == "equal":
            inputs["image"] = inputs["text"] = image[:1].expand(12, -1).contiguous()
        elif rows == "opposite":  # every exp(scale * cosine - scale) underflows in fp32
            inputs["text"] = F.normalize(-image + 1e-3 * inputs["text"], dim=1)
        else:
            inputs["text"] = image
        inputs = {key: value.float() for key, value in inputs.items()}
        exact = {key: value.double() for key, value in inputs.items()}
        got = differentiate(case.make(7), inputs, batch)
        assert all(tensor.isfinite().all() for tensor in (got[0], *got[1].values()))
        expected = differentiate(case.oracle(), exact, batch)
        assert_same(got, expected, 1e-4 * scale)

    def test_batch_without_samples_is_zero_with_a_graph(self, name):
        case = CASES[name]
        inputs, batch = make_inputs(case, 0)
        value, gradients = differentiate(case.make(None), inputs, batch)
        assert value == 0
        assert not any(gradient.any() for gradient in gradients.values())
        inputs, batch = make_inputs(case, 3)
        batch.labels.fill_(-100)
        batch.multi_labels.fill_(-100)
        batch.pair_mask = torch.zeros(3, dtype=torch.bool)
        value, gradients = differentiate(case.make(None), inputs, batch)
        assert value == 0
        assert not any(gradient.any() for gradient in gradients.values())

    @pytest.mark.parametrize(
        "frozen", [("image",), ("text", "logit_scale"), ("image", "logit_scale")]
    )
    def test_frozen_inputs_change_no_other_gradient(self, name, frozen):
        case = CASES[name]
        inputs, batch = make_inputs(case, 9)
        _, expected = differentiate(case.make(4), inputs, batch)
        leaves = {
            key: value.clone().requires_grad_(key not in frozen) for key, value in inputs.items()
        }
        value = case.make(4)(Embeddings(**leaves), batch)
        if value.requires_grad:
            value.backward()
        for key, leaf in leaves.items():
            if key in frozen:
                assert leaf.grad is None
            elif leaf.grad is not None:
                assert torch.equal(leaf.grad, expected[key])

    def test_compiled_equals_eager(self, name):
        case = CASES[name]
        inputs, batch = make_inputs(case, 5)
        eager, loss = case.make(3), case.make(3)
        compiled = torch.compile(lambda e, b: 2 * loss(e, b) / 2, backend="eager")
        for _ in range(2):  # of a term with a memory the second differs
            expected = differentiate(eager, inputs, batch)
            assert_same(differentiate(compiled, inputs, batch), expected, 1e-12)

    def test_saved_state_continues_exactly(self, name):
        case = CASES[name]
        data = [make_inputs(case, 8, seed) for seed in range(4)]
        first, second = case.make(None), case.make(None)
        values = [float(first(Embeddings(**inputs), batch)) for inputs, batch in data[:2]]
        second.load_state_dict(first.state_dict())
        for inputs, batch in data[2:]:
            values.append(float(first(Embeddings(**inputs), batch)))
            assert float(second(Embeddings(**inputs), batch)) == values[-1]
        assert len(set(values)) == len(values)
