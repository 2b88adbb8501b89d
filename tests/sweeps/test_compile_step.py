"""CompileStep: one graph of encoder and objective, with the values and gradients of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Callback
from torch._dynamo.testing import CompileCounterWithBackend

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    MatryoshkaLoss,
    SigmoidLoss,
    WeightedTerm,
)
from clipkit.models import DualEncoder, LinearLabelHead, PrototypeLabelHead, from_open_clip
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import (
    ActivationCheckpointing,
    CompileStep,
    CompileTowers,
    TokenSchedule,
    TokenStage,
)
from clipkit.training.callbacks.towers.compile_step import CompiledStep
from clipkit.types import Batch
from clipkit.when import Progress
from tests.helpers import modalities, naflex, tiny
from tests.helpers.tower_runs import Movement

SIZE = 6


def schedule() -> LinearSchedule:
    return LinearSchedule(1.0, 0.5, 8)


OBJECTIVES: dict[str, Callable[[], CombinedLoss]] = {
    "softmax": lambda: CombinedLoss(ContrastiveLoss(), contrastive_weight=schedule()),
    "labels, in tiles": lambda: CombinedLoss(ContrastiveLoss(4), LabelLoss(), 1.0, schedule()),
    "nested, tf32": lambda: CombinedLoss(MatryoshkaLoss(ContrastiveLoss(None, "tf32"), [3, 6])),
    "sigmoid, bf16": lambda: CombinedLoss(SigmoidLoss(4, "bf16")),
    "classes": lambda: CombinedLoss(
        terms={"classes": WeightedTerm(LabelAwareContrastiveLoss())}, uncertainty=True
    ),
    "labels alone": lambda: CombinedLoss(label=LabelLoss(), label_weight=1.0),
}


def batch(step: int, size: int = SIZE) -> Batch:
    """Another batch of one shape in every step."""
    draw = torch.Generator().manual_seed(step)
    return Batch(
        torch.randint(0, 256, (size, 3, 2, 2), generator=draw, dtype=torch.uint8),
        torch.randint(1, 20, (size, 5), generator=draw),
        torch.tensor([-100, *torch.randint(0, 3, (size - 1,), generator=draw).tolist()]),
        tuple(f"{step}/{number}" for number in range(size)),
        cursor={"position": step},
        rank_sizes=(size,),
    )


def encoder(name: str = "") -> DualEncoder:
    """Towers of one matrix, which compile fast; rounded products need fp32."""
    torch.manual_seed(0)
    head = LinearLabelHead(modalities.WIDTH, 3) if "labels" in name else None
    bias = -3.0 if "sigmoid" in name else None
    made = DualEncoder(
        modalities.PixelTower(), modalities.BagTower(), head, logit_scale=8.0, logit_bias=bias
    )
    return made if "tf32" in name or "bf16" in name else made.double()


def differentiate(model, loss, step) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Terms of one step, and the gradients of every parameter."""
    parameters = {**dict(model.named_parameters()), **dict(loss.named_parameters())}
    for parameter in parameters.values():
        parameter.grad = None
    terms = step()
    terms["loss"].backward()
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    return terms, gradients


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_graph_has_the_values_and_gradients_of_its_parts(name):
    torch._dynamo.reset()
    counted = CompileCounterWithBackend("aot_eager")
    model, loss, plain = encoder(name), OBJECTIVES[name](), OBJECTIVES[name]()
    compiled = CompiledStep(model, loss, counted, None)
    for step in range(3):
        data = batch(step)
        wanted = differentiate(model, plain, lambda data=data: plain(model(data), data))
        got = differentiate(model, loss, lambda data=data: compiled(data))
        for values, expected in zip(got, wanted, strict=True):
            assert values.keys() == expected.keys()
            near = 1e-4 if "tf32" in name or "bf16" in name else 1e-9
            torch.testing.assert_close(values, expected, rtol=near, atol=near)
    assert counted.frame_count == 1
    assert loss.num_steps == plain.num_steps == 3


class Graphs(Callback):
    """The number of graphs after every step."""

    def __init__(self, counted: CompileCounterWithBackend) -> None:
        self.counted = counted
        self.numbers: list[int] = []

    def on_train_batch_end(self, *_):
        self.numbers.append(self.counted.frame_count)


def test_a_run_has_one_graph(shards, tmp_path):
    """Over epochs, whose last samples are dropped, and validations, whose last batch is smaller."""

    def fit(*callbacks):
        torch._dynamo.reset()
        movement, module = Movement(), tiny.module(labels=True)
        trainer = tiny.trainer(tmp_path, movement, *callbacks, max_epochs=3, gradient_clip_val=1.0)
        trainer.fit(module, datamodule=tiny.data(shards, 5, val=True))
        assert module.one_graph is None
        return movement.losses

    counted = CompileCounterWithBackend("eager")
    graphs = Graphs(counted)
    compiled = fit(CompileStep(backend=counted), graphs)
    assert compiled == pytest.approx(fit(), rel=1e-4)
    assert graphs.numbers == [1] * 12  # 23 samples are 4 batches of 5


def test_what_cannot_be_one_graph_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match=r"CompileStep.mode: expected one of .* got 'fast'"):
        CompileStep(mode="fast")
    stages = TokenSchedule([TokenStage(0.5, text_length=8)])
    trainer = tiny.trainer(
        tmp_path, stages, CompileTowers(), ActivationCheckpointing(), accumulate_grad_batches=2
    )
    module = tiny.module(micro_batch_size=2)
    head = PrototypeLabelHead(16, ["red", "green"], refresh_every=3)
    module.encoder = from_open_clip(tiny.CONFIG, label_head=head)
    module.loss = CombinedLoss(GlobalContrastiveLoss(9))
    with pytest.raises(ConfigError) as error:
        CompileStep().on_fit_start(trainer, module)
    for obstacle in (
        "micro_batch_size: expected null, got 2", "TokenSchedule: expected none",
        "CompileTowers: expected none", "ActivationCheckpointing: expected none",
        "loss.contrastive: expected a term without a memory, got GlobalContrastiveLoss",
        "label_head.refresh_every: expected null, got 3",
    ):  # fmt: skip
        assert obstacle in str(error.value)
    assert "accumulate" not in str(error.value)
    with pytest.raises(ConfigError, match=r"GPU, got cpu; .*accumulate_grad_batches: expected 1"):
        CompileStep(mode="reduce-overhead").on_fit_start(
            tiny.trainer(tmp_path, accumulate_grad_batches=2), tiny.module()
        )
    sharded = tiny.trainer(tmp_path, strategy=ShardedStrategy(), num_nodes=1)
    with pytest.raises(ConfigError, match=r"trainer.devices: expected one device and no sharded"):
        CompileStep().on_fit_start(sharded, tiny.module())
    with pytest.raises(ConfigError, match="image_tower: expected a tower of images of one shape"):
        CompileStep().on_fit_start(tiny.trainer(tmp_path), naflex.module())


def test_batches_of_other_shapes_are_refused():
    model, loss = encoder(), OBJECTIVES["softmax"]()
    compiled = CompiledStep(model, loss, "eager", None)
    masked = replace(batch(0), pair_mask=torch.ones(SIZE, dtype=torch.bool))
    with pytest.raises(ConfigError, match="expected batches without pair_mask"):
        compiled(masked)
    compiled(batch(0))
    with pytest.raises(ConfigError, match=r"batches of one shape, .*\(6, 5\).* got .*\(5, 5\)"):
        compiled(batch(1, size=5))
    two = CombinedLoss(ContrastiveLoss(None, "tf32"), terms={
        "more": WeightedTerm(ContrastiveLoss(None, "fp32"))})  # fmt: skip
    with pytest.raises(ConfigError, match=r"one precision of all terms .* got fp32, tf32"):
        CompiledStep(model, two, "eager", None)(batch(0))


def test_an_encoder_that_is_no_graph_is_named(monkeypatch):
    @torch.compiler.disable
    def eager(tower, images):
        return tower.linear(images.flatten(1))

    monkeypatch.setattr(modalities.PixelTower, "forward", eager)
    loss = OBJECTIVES["softmax"]()
    loss.progress = progress = Progress(3)
    with pytest.raises(ConfigError, match=r"encoder and objective cannot be one graph: .*use Comp"):
        CompiledStep(encoder(), loss, "eager", None)(batch(0))
    assert loss.progress is progress


def test_hooks_of_the_encoder_are_in_the_graph():
    model, loss = encoder(), OBJECTIVES["softmax"]()
    compiled = CompiledStep(model, loss, "eager", None)
    model.text_tower.register_forward_hook(lambda _, inputs, rows: rows.flip(0))
    assert loss.contrastive is not None
    expected = loss.contrastive(model(batch(0)))
    torch.testing.assert_close(compiled(batch(0))["contrastive"], expected.detach())
