"""The average of weights: its formula, resuming, and swapping in."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from clipkit.errors import CheckpointError, ConfigError
from clipkit.optim import EmaWeights, ema


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def change(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def test_average_by_hand():
    module = model()
    average = EmaWeights(module, decay=0.5)
    expected = module[0].weight.detach().clone()
    for step in range(20):
        change(module, step)
        average.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
    torch.testing.assert_close(average.weights["0.weight"], expected)
    assert average.num_updates == 20


def test_resuming_is_exact(tmp_path):
    module = model()
    whole, first = EmaWeights(module), EmaWeights(module)
    for step in range(10):
        change(module, step)
        whole.update(module)
        first.update(module)
    torch.save(first.state_dict(), tmp_path / "average.pt")
    second = EmaWeights(model(seed=9))
    second.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    for step in range(10, 20):
        change(module, step)
        whole.update(module)
        second.update(module)
    for name, value in whole.weights.items():
        assert torch.equal(value, second.weights[name])


def test_swapping_in_and_out_leaves_every_bit():
    module = model()
    average = EmaWeights(module)
    change(module, 1)
    average.update(module)
    own = {name: value.clone() for name, value in module.state_dict().items()}
    with contextlib.suppress(KeyError), average.swapped_into(module):
        for name, value in module.state_dict().items():
            assert torch.equal(value, average.weights[name])
        raise KeyError  # an evaluation that fails leaves the weights as they were, too
    for name, value in module.state_dict().items():
        assert torch.equal(value, own[name])


def test_swapped_weights_are_the_same_parameters_for_an_optimizer():
    module = model()
    before = [id(parameter) for parameter in module.parameters()]
    with EmaWeights(module).swapped_into(module):
        assert [id(parameter) for parameter in module.parameters()] == before


def test_small_steps_do_not_vanish_in_half_precision():
    module = nn.Linear(1, 1, bias=False).bfloat16()
    module.weight.data.fill_(1.0)
    average = EmaWeights(module, decay=0.999)
    average.num_updates = 100_000
    module.weight.data.fill_(1.5)
    average.update(module)
    assert average.weights["weight"].item() == pytest.approx(1.0005)


def test_batch_norm_counts_are_copied():
    module = model()
    average = EmaWeights(module)
    module(torch.randn(8, 3))
    average.update(module)
    assert average.weights["1.num_batches_tracked"].item() == 1


def test_a_step_that_is_left_out_leaves_the_average():
    module, other = model(), model()
    average, plain = EmaWeights(module), EmaWeights(other)
    change(module, 1)
    change(other, 1)
    average.update(module, torch.tensor(0.0))
    plain.update(other)
    assert all(torch.equal(average.weights[name], value) for name, value in plain.weights.items())
    average.update(module, torch.tensor(1.0))
    assert all(torch.equal(average.weights[name], value) for name, value in plain.weights.items())
    assert average.num_updates == 2  # the warm-up of the decay counts the step


def test_a_guarded_average_is_that_of_an_unguarded_one():
    """Also late in a run, when the decay is near 1, and in channels-last order."""
    modules = [nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Linear(3, 5)) for _ in "ab"]
    modules[1].load_state_dict(modules[0].state_dict())
    modules[1].to(memory_format=torch.channels_last)
    averages = [EmaWeights(module, 0.99) for module in modules]
    for step in range(300):
        for module, average, guard in zip(
            modules, averages, (torch.tensor(0.0), None), strict=True
        ):
            change(module, step)
            average.update(module, guard)
    before = {name: value.clone() for name, value in averages[0].weights.items()}
    change(modules[0], 300)
    averages[0].update(modules[0], torch.tensor(1.0))
    for name, value in averages[1].weights.items():
        torch.testing.assert_close(averages[0].weights[name], value, rtol=1e-6, atol=1e-7)
        assert torch.equal(averages[0].weights[name], before[name]), name


class Averaging(TorchDispatchMode):
    """Counts the operations that move an average."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "lerp" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guard", [None, torch.tensor(0.0)])
def test_one_operation_averages_many_tensors(guard):
    """Each is a kernel on a GPU, where one per tensor takes longer than the average itself."""
    module = nn.Sequential(*(nn.Linear(3, 4) for _ in range(20)))
    average = EmaWeights(module)
    with Averaging() as seen:
        average.update(module, guard)
    assert seen.count == 1


def test_large_tensors_need_no_memory_of_their_size(monkeypatch):
    monkeypatch.setattr(ema, "_FUSED_NUMEL", 12)
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(2, 9), nn.Linear(4, 2))
    plain = copy.deepcopy(module)
    average, expected = EmaWeights(module), EmaWeights(plain)
    change(module, 1)
    change(plain, 1)
    with Averaging() as seen:
        average.update(module, torch.tensor(0.0))
    assert seen.count == 2  # the layer of 18 weights by itself
    expected.update(plain)
    for name, value in expected.weights.items():
        assert torch.equal(average.weights[name], value), name


def test_the_state_of_the_model_is_asked_for_once():
    """Its hooks may wait for a GPU, as that of a head with prototypes does."""
    module = model()
    average, asked = EmaWeights(module, 0.5), []
    module.register_state_dict_pre_hook(lambda *_: asked.append(1))
    for step in range(3):
        change(module, step)
        average.update(module)
    assert not asked


def test_replaced_tensors_and_copies_are_followed():
    module = model()
    average = EmaWeights(module, 0.0)  # the weights themselves
    for step in range(3):
        module[0].weight = nn.Parameter(torch.full((4, 3), float(step)))
        module[1].running_mean = torch.full((4,), float(step))
        module[2].weight.data = torch.full((2, 4), float(step))
        average.update(module)
        for name, value in module.state_dict().items():
            assert torch.equal(average.weights[name], value), name
    copied = copy.deepcopy(average)
    other = model(seed=1)
    for trained in (module, other):
        change(trained, 9)
        copied.update(trained)
        for name, value in trained.state_dict().items():
            assert torch.equal(copied.weights[name], value), name


def test_weights_of_another_architecture_are_refused():
    average = EmaWeights(model())
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        average.load_state_dict(EmaWeights(nn.Sequential(nn.Linear(9, 9))).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(ConfigError, match="decay"):
        EmaWeights(model(), decay=decay)


def test_sharded_and_whole_weights_are_averaged_together(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        module, plain = model(), model()
        fully_shard(module[0], mesh=init_device_mesh("cpu", (1,)))
        average, expected = EmaWeights(module), EmaWeights(plain)
        for part in (module, plain):
            with torch.no_grad():
                for parameter in part.parameters():
                    parameter.add_(1.0)
        average.update(module)
        expected.update(plain)
        for name, value in average.weights.items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            assert torch.equal(whole, expected.weights[name])
        assert isinstance(average.weights["0.weight"], DTensor)
    finally:
        torch.distributed.destroy_process_group()
