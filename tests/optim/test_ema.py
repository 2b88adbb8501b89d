"""The average of weights: its formula, resuming, and swapping in."""

import contextlib

import pytest
import torch
from torch import nn

from clipkit.errors import CheckpointError, ConfigError
from clipkit.optim import EmaWeights


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
