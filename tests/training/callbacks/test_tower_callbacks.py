"""Callbacks that change how towers run or learn, never what they compute."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clipkit.errors import ConfigError
from clipkit.models import TcnTower, with_towers
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileTowers,
    SaveCheckpoint,
    Unlock,
)
from clipkit.training.lightning_compat import product_operators
from clipkit.types import ModalityBatch
from tests.helpers import tiny
from tests.helpers.graphs import gradients, of_layers
from tests.helpers.tower_runs import Movement, unlocking


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


@pytest.mark.parametrize("keep", ["inputs", "products"])
def test_blocks_of_a_tower_without_inputs_are_not_recomputed_in_another_mode(keep):
    """A rank whose samples lack a modality runs its tower in evaluation mode for a moment."""
    all_gradients = []
    for recompute in (False, True):
        module = tiny.module()
        torch.manual_seed(0)
        tower = TcnTower(16, input_shape=(2, 8), width=4, num_blocks=2, dropout=0.5)
        module.encoder = with_towers(module.encoder, {"series": tower}).train()
        if recompute:
            ActivationCheckpointing(["series_tower"], keep=keep).setup(None, module, "fit")
        before = {name: value.clone() for name, value in tower.named_buffers()}
        none = ModalityBatch(torch.zeros(4, 2, 8), torch.zeros(4, dtype=torch.bool))
        embeddings = module.encoder(replace(tiny.batch(), modalities={"series": none}))
        assert tower.blocks.training
        (embeddings.image.sum() + embeddings.modalities["series"].values.sum()).backward()
        assert all(torch.equal(before[name], value) for name, value in tower.named_buffers())
        all_gradients.append([p.grad for p in module.encoder.image_tower.parameters()])
        assert not any(p.grad.any() for p in tower.parameters())
    assert all(map(torch.equal, *all_gradients))


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
