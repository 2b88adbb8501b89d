"""Callbacks that change how towers run or learn, never what they compute."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch._dynamo import register_backend
from torch.utils._python_dispatch import TorchDispatchMode

from clipkit.errors import ConfigError
from clipkit.models import from_open_clip
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileTowers,
    SaveCheckpoint,
    Unlock,
)
from clipkit.training.callbacks.towers.compile_towers import round_up_length
from clipkit.training.lightning_compat import product_operators
from tests.helpers import naflex, tiny
from tests.helpers.tower_runs import Movement, unlocking

GRAPHS: list[int] = []


@register_backend(name="clipkit_counting")
def counting(graph, inputs):
    GRAPHS.append(len(inputs))
    return graph.forward


def gradients(module, batch):
    module.zero_grad()
    module.loss(module.encoder(batch), batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in module.encoder.named_parameters()}


def test_compiled_towers_are_not_compiled_again_for_every_length():
    torch._dynamo.reset()
    GRAPHS.clear()
    plain, module = tiny.module(), tiny.module()
    CompileTowers(text_multiple=8, backend="clipkit_counting").setup(None, module, "fit")
    assert module.state_dict().keys() == plain.state_dict().keys()
    for length in range(3, 17):  # 8 and 16 tokens after rounding
        torch.testing.assert_close(
            gradients(module, tiny.batch(length)),
            gradients(plain, tiny.batch(length)),
            rtol=1e-3,
            atol=1e-5,
        )
    assert 2 <= len(GRAPHS) <= 3  # pictures, captions of 8, captions of any length


@pytest.mark.parametrize(("length", "wanted"), [(1, 8), (8, 8), (9, 16), (73, 77), (77, 77)])
def test_lengths_are_rounded_up_but_not_past_the_tower(length, wanted):
    tokens = torch.ones(2, length, dtype=torch.int64)
    rounded = round_up_length(tokens, 8, 77, pad_id=5)
    assert rounded.shape == (2, wanted)
    assert (rounded[:, length:] == 5).all()


def test_recomputed_activations_are_not_kept():
    plain, module = tiny.module(), tiny.module()
    ActivationCheckpointing().setup(None, module, "fit")
    assert module.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(gradients(module, tiny.batch()), gradients(plain, tiny.batch()))

    def saved(module) -> int:
        sizes: list[int] = []
        pack = lambda x: sizes.append(x.numel()) or x  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            module.encoder(tiny.batch(size=8))
        return sum(sizes)

    assert saved(module) < 0.7 * saved(plain)
    module.zero_grad()
    gradients(copy.deepcopy(module), tiny.batch())  # a copy recomputes itself, not the original
    assert all(p.grad is None for p in module.parameters())


def of_layers(layers=3):
    """A module with towers of several blocks."""
    module = tiny.module()
    parts = {part: {**tiny.CONFIG[part], "layers": layers} for part in ("vision_cfg", "text_cfg")}
    torch.manual_seed(0)
    module.encoder = from_open_clip({**tiny.CONFIG, **parts})
    return module


@pytest.mark.parametrize("keep", ["inputs", "products"])
@pytest.mark.parametrize("first", ["compile", "recompute"])
def test_what_is_recomputed_is_compiled_in_either_order(first, keep):
    torch._dynamo.reset()
    GRAPHS.clear()
    plain, module = of_layers(), of_layers()
    callbacks = [CompileTowers(8, "clipkit_counting"), ActivationCheckpointing(keep=keep)]
    for callback in callbacks if first == "compile" else reversed(callbacks):
        callback.setup(None, module, "fit")
    assert module.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(
        gradients(module, tiny.batch(8)), gradients(plain, tiny.batch(8)), rtol=1e-3, atol=1e-5
    )
    # blocks of images and of captions, and the last block of images, which has one query; not none
    assert len(GRAPHS) == 3
    copied = copy.deepcopy(module)
    module.zero_grad()
    gradients(copied, tiny.batch(8))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("recompute", [False, True])
def test_images_of_any_shape_are_not_compiled_for_every_number_of_patches(recompute):
    torch._dynamo.reset()
    GRAPHS.clear()
    plain, module, counts = naflex.module(), naflex.module(), []
    CompileTowers(8, "clipkit_counting").setup(None, module, "fit")
    if recompute:
        ActivationCheckpointing().setup(None, module, "fit")
    for padding in range(5):
        batch = naflex.batch()
        batch.images = torch.nn.functional.pad(batch.images, (0, 0, 0, padding))
        wanted = gradients(plain, batch)
        torch.testing.assert_close(gradients(module, batch), wanted, rtol=1e-3, atol=1e-5)
        counts.append(len(GRAPHS))
    assert counts[1] == counts[-1]  # for one number, then for any


def test_blocks_are_not_cut_at_ddp_buckets():
    CompileTowers(backend="clipkit_counting").setup(None, tiny.module(), "fit")
    assert torch._dynamo.config.optimize_ddp is False


def test_products_are_kept_and_the_rest_is_recomputed():
    """Counted by operations: the second forward pass contains no products."""

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = Counter()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls[func] += 1
            return func(*args, **(kwargs or {}))

    products = set(product_operators())
    names, all_gradients = (None, "inputs", "products"), []
    counted = []
    for keep in names:
        module = of_layers()
        if keep is not None:
            ActivationCheckpointing(keep=keep).setup(None, module, "fit")
        with Count() as count:
            all_gradients.append(gradients(module, tiny.batch()))
        of_products = sum(n for func, n in count.calls.items() if func in products)
        norms = count.calls[torch.ops.aten.native_layer_norm.default]
        counted.append((of_products, norms))
    for found in all_gradients[1:]:
        assert all(torch.equal(value, all_gradients[0][name]) for name, value in found.items())
    (plain, norms), (inputs, recomputed), (selected, selected_norms) = counted
    assert inputs > plain == selected
    assert recomputed == selected_norms > norms


def test_options_that_cannot_work():
    with pytest.raises(ConfigError, match="text_multiple: expected at least 1, got 0"):
        CompileTowers(text_multiple=0)
    with pytest.raises(ConfigError, match="every: expected at least 1, got 0"):
        ActivationCheckpointing(every=0)
    with pytest.raises(ConfigError, match="keep: expected one of inputs, products, got 'all'"):
        ActivationCheckpointing(keep="all")
    with pytest.raises(ConfigError, match=r"unlock\.begin: expected one of step"):
        Unlock(groups=1, begin=1.5)


def test_layers_are_unlocked_on_time_and_resumed_exactly(tmp_path):
    folder = tiny.shards(tmp_path / "data", (40,))

    def fit(ckpt=None):
        movement, module = Movement(), tiny.module()
        callbacks = [movement, unlocking(), SaveCheckpoint(keep_every_n_steps=1)]
        trainer = tiny.trainer(tmp_path, *callbacks, max_steps=6)
        trainer.fit(module, datamodule=tiny.data(folder), ckpt_path=ckpt)
        return movement.moved, module.state_dict()

    moved, weights = fit()
    nothing, last, upper = [False] * 3, [False, False, True], [False, True, True]
    assert moved == [nothing, nothing, last, last, upper, upper]
    for step in (1, 3, 5):
        again, same = fit(tmp_path / f"step={step}.ckpt")
        assert again == moved[step:]
        assert all(torch.equal(weights[name], same[name]) for name in weights)
