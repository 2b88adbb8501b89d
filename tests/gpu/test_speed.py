"""Options of speed and memory on a GPU: the losses stay, and the options have an effect."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileStep,
    CompileTowers,
    Float8Training,
    ProfileSteps,
    SaveCheckpoint,
    TorchBackends,
)
from tests.gpu.device import only_cuda
from tests.gpu.test_training import fit
from tests.helpers import tiny
from tests.helpers.graphs import of_layers
from tests.helpers.tower_runs import Movement

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def on_cpu(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return fit(tmp_path_factory.mktemp("cpu"), source, accelerator="cpu")


def has_float8() -> bool:
    if not torch.cuda.is_available() or find_spec("torchao") is None:
        return False
    return torch.cuda.get_device_capability() >= (8, 9)


@pytest.mark.parametrize("mode", [None, pytest.param("reduce-overhead", marks=only_cuda)])
def test_complete_towers(tmp_path: Path, source: Path, on_cpu: list[float], mode: str) -> None:
    torch._dynamo.reset()
    towers = CompileTowers(16, mode=mode, unit="tower")
    profiler = ProfileSteps(first_batch=4, num_batches=2)
    found = fit(tmp_path, source, towers, ActivationCheckpointing(), profiler)
    assert found == pytest.approx(on_cpu, rel=1e-3)
    trace = gzip.decompress((tmp_path / "profile/trace.json.gz").read_bytes())
    assert (b"GraphLaunch" in trace) == (mode is not None)


@pytest.mark.parametrize("mode", [None, pytest.param("reduce-overhead", marks=only_cuda)])
def test_complete_step(tmp_path: Path, source: Path, on_cpu: list[float], mode: str) -> None:
    torch._dynamo.reset()
    profiler = ProfileSteps(first_batch=4, num_batches=2)
    found = fit(tmp_path, source, CompileStep(mode=mode), profiler)
    assert found == pytest.approx(on_cpu, rel=1e-3)
    trace = gzip.decompress((tmp_path / "profile/trace.json.gz").read_bytes())
    assert (b"GraphLaunch" in trace) == (mode is not None)


@pytest.mark.parametrize("compiled", [False, True])
def test_selective_checkpointing(
    tmp_path: Path, source: Path, on_cpu: list[float], compiled: bool
) -> None:
    torch._dynamo.reset()
    callbacks = [CompileTowers()] if compiled else []
    found = fit(tmp_path, source, *callbacks, ActivationCheckpointing(keep="products"))
    assert found == pytest.approx(on_cpu, rel=1e-3)


@only_cuda
def test_checkpointing_saves_memory() -> None:
    """From all activations over products to inputs, each takes less."""

    def peak(keep: str | None) -> int:
        module = of_layers(8).cuda()
        if keep is not None:
            ActivationCheckpointing(keep=keep).setup(None, module, "fit")
        batch = tiny.batch(16, 8)
        images, tokens = (x.repeat(32, *(1,) * (x.ndim - 1)).cuda() for x in (
            batch.images, batch.tokens,
        ))  # fmt: skip
        before = torch.cuda.memory_allocated()
        embeddings = module.encoder.encode_image(images), module.encoder.encode_text(tokens)
        held = torch.cuda.memory_allocated() - before
        del embeddings
        return held

    assert peak("inputs") < peak("products") < peak(None)


@pytest.mark.skipif(not has_float8(), reason="needs torchao and compute capability 8.9")
@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise", "rowwise_with_gw_hp"])
def test_float8_is_that_of_the_emulation(tmp_path: Path, source: Path, recipe: str) -> None:
    def losses(name: str, emulate: bool) -> list[float]:
        torch._dynamo.reset()
        movement = Movement()
        callbacks = [movement, Float8Training(None, recipe, emulate), CompileTowers()]
        trainer = tiny.trainer(
            tmp_path / name, *callbacks, SaveCheckpoint(), accelerator="gpu", max_steps=6,
            precision="bf16-mixed",
        )  # fmt: skip
        trainer.fit(of_layers(), datamodule=tiny.data(source))
        return movement.losses

    assert losses("float8", False) == pytest.approx(losses("emulated", True), rel=3e-2)


def test_tf32_is_on_during_the_fit_alone(tmp_path: Path, source: Path) -> None:
    before = torch.get_float32_matmul_precision()
    found = fit(tmp_path, source, TorchBackends("high"))
    assert torch.get_float32_matmul_precision() == before
    assert all(value == value for value in found)
