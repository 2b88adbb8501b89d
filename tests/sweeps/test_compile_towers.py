"""CompileTowers: graphs are counted, and gradients are those of towers that are not compiled."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch.nn.parallel import DistributedDataParallel

from clipkit.errors import ConfigError
from clipkit.models import MergedFusion, with_fusion, with_towers
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileTowers,
    TokenSchedule,
    TokenStage,
)
from clipkit.training.callbacks.towers.compile_towers import round_up_length
from clipkit.training.callbacks.towers.cuda_graphs import check_cuda_graphs
from tests.helpers import naflex, tiny, tiny_models
from tests.helpers.graphs import COUNTING, GRAPHS, forget, gradients, of_layers
from tests.helpers.series import SeriesTower
from tests.helpers.tower_runs import Movement


def test_compiled_towers_are_not_compiled_again_for_every_length():
    forget()
    plain, module = tiny.module(), tiny.module()
    CompileTowers(text_multiple=8, backend=COUNTING).setup(None, module, "fit")
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


@pytest.mark.parametrize("keep", ["inputs", "products"])
@pytest.mark.parametrize("first", ["compile", "recompute"])
def test_what_is_recomputed_is_compiled_in_either_order(first, keep):
    forget()
    plain, module = of_layers(), of_layers()
    callbacks = [CompileTowers(8, COUNTING), ActivationCheckpointing(keep=keep)]
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
    forget()
    plain, module, counts = naflex.module(), naflex.module(), []
    CompileTowers(8, COUNTING).setup(None, module, "fit")
    if recompute:
        ActivationCheckpointing().setup(None, module, "fit")
    for padding in range(5):
        batch = naflex.batch()
        batch.images = torch.nn.functional.pad(batch.images, (0, 0, 0, padding))
        wanted = gradients(plain, batch)
        torch.testing.assert_close(gradients(module, batch), wanted, rtol=1e-3, atol=1e-5)
        counts.append(len(GRAPHS))
    assert counts[1] == counts[-1]  # for one number, then for any


@pytest.mark.parametrize("unit", ["block", "tower"])
def test_graphs_are_not_cut_at_ddp_buckets(unit, tmp_path):
    """Buckets of 1 MiB are smaller than a block of this width."""
    counts = []
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for cuts in (False, True):
            forget()
            module = of_layers(2, image_width=192)
            CompileTowers(8, COUNTING, unit=unit).setup(None, module, "fit")
            if cuts:
                torch._dynamo.config.optimize_ddp = True
            embeddings = DistributedDataParallel(module.encoder, bucket_cap_mb=1)(tiny.batch(8))
            (embeddings.image.sum() + embeddings.text.sum()).backward()
            counts.append(len(GRAPHS))
    finally:
        torch._dynamo.config.optimize_ddp = False
        dist.destroy_process_group()
    assert counts[0] == (3 if unit == "block" else 2)
    assert counts[1] > counts[0]


@pytest.mark.parametrize("keep", [None, "inputs", "products"])
def test_a_complete_tower_is_one_graph_for_every_batch(keep):
    forget()
    plain, module, counts = of_layers(), of_layers(), []
    CompileTowers(16, COUNTING, unit="tower").setup(None, module, "fit")
    if keep is not None:
        ActivationCheckpointing(keep=keep).setup(None, module, "fit")
    assert module.state_dict().keys() == plain.state_dict().keys()
    # captions of different lengths; the last batch of each epoch is smaller
    for length, size in [(5, 8), (9, 8), (16, 3)] * 2:
        batch = tiny.batch(length, size)
        wanted = gradients(plain, batch)
        torch.testing.assert_close(gradients(module, batch), wanted, rtol=1e-3, atol=1e-5)
        counts.append(len(GRAPHS))
    assert counts == [2, 2, 4, 4, 4, 4]  # for one size of both towers, then for any
    copied = copy.deepcopy(module)
    module.zero_grad()
    gradients(copied, tiny.batch(8))
    assert all(p.grad is None for p in module.parameters())


def test_what_a_fusion_reads_stays_outside_of_graphs():
    module = of_layers()
    vision = {**tiny_models.RESNET, "layers": [1, 1, 2, 2]}  # stages of several blocks
    module.encoder = with_fusion(tiny_models.encoder(vision), MergedFusion(8, 1, 2))
    with pytest.raises(ConfigError, match="unit: expected block with a JointEncoder"):
        CompileTowers(8, COUNTING, unit="tower").setup(None, module, "fit")
    CompileTowers(8, COUNTING).setup(None, module, "fit")
    visual = module.encoder.image_tower.visual
    assert visual.layer4._compiled_call_impl is None  # hooks inside a graph would be left out
    assert visual.layer3._compiled_call_impl is not None


class Counts(Callback):
    """The number of graphs after each epoch and its validation."""

    def __init__(self):
        self.numbers = []

    def on_train_epoch_end(self, *_):
        self.numbers.append(len(GRAPHS))


def test_a_run_compiles_nothing_after_its_first_epoch(tmp_path):
    """Training and validation, whose last batch is smaller, with evaluation mode."""
    folder = tiny.shards(tmp_path / "data", (16,), val=6)

    def fit(*callbacks):
        forget()
        movement, module = Movement(), tiny.module()
        trainer = tiny.trainer(tmp_path, movement, *callbacks, max_epochs=3)
        trainer.fit(module, datamodule=tiny.data(folder, val=True))
        return movement.losses

    counts = Counts()
    compiled = fit(CompileTowers(16, COUNTING, unit="tower"), counts)
    assert compiled == pytest.approx(fit(), rel=1e-4)
    assert counts.numbers[0] == counts.numbers[-1] > 0


def test_cuda_graphs_are_refused_where_shapes_vary(tmp_path):
    with pytest.raises(ConfigError, match=r"mode: expected one of default, .*, got 'fast'"):
        CompileTowers(mode="fast")
    with pytest.raises(ConfigError, match="unit: expected tower with mode reduce-overhead"):
        CompileTowers(mode="reduce-overhead")
    with pytest.raises(ConfigError, match="unit: expected one of block, tower, got 'step'"):
        CompileTowers(unit="step")
    CompileTowers(mode="max-autotune-no-cudagraphs")
    recorded = CompileTowers(16, mode="max-autotune", unit="tower")
    stages = TokenSchedule([TokenStage(0.5, text_length=8)])
    trainer = tiny.trainer(tmp_path, stages, accumulate_grad_batches=2)
    module = tiny.module(micro_batch_size=2)
    with pytest.raises(ConfigError) as error:
        recorded.on_fit_start(trainer, module)
    for obstacle in (
        "expected a GPU, got cpu", "micro_batch_size: expected null, got 2",
        "accumulate_grad_batches: expected 1, got 2", "TokenSchedule: expected none",
    ):  # fmt: skip
        assert obstacle in str(error.value)
    assert "text_multiple" not in str(error.value)  # always 16 tokens
    with pytest.raises(ConfigError, match=r"text_multiple: expected the context length 16.*got 8"):
        check_cuda_graphs(tiny.trainer(tmp_path), module, 8)
    with pytest.raises(ConfigError, match="image_tower: expected a tower of images of one shape"):
        check_cuda_graphs(tiny.trainer(tmp_path), naflex.module(), 16)
    module.encoder = with_towers(tiny.encoder(), {"series": SeriesTower()})
    with pytest.raises(ConfigError, match=r"an image and a text tower alone.*vary, got series"):
        check_cuda_graphs(tiny.trainer(tmp_path), module, 16)


def test_a_complete_tower_cannot_be_sharded(tmp_path):
    trainer = tiny.trainer(tmp_path, strategy=ShardedStrategy(), num_nodes=1)
    with pytest.raises(ConfigError, match="unit: expected block with ShardedStrategy"):
        CompileTowers(unit="tower").on_fit_start(trainer, tiny.module())
