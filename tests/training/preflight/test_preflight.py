"""What a run says before it starts, held against what it then does; and what is refused."""

from __future__ import annotations

import io
import json

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console

from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.models import LinearLabelHead, from_open_clip, with_towers
from clipkit.optim import WarmupCosine, WarmupStableDecay
from clipkit.training.callbacks import ActivationCheckpointing, SaveCheckpoint
from clipkit.training.preflight.callback import Preflight
from clipkit.training.preflight.memory import (
    activation_bytes,
    exchange_estimate,
    input_bytes,
    memory_estimate,
    optimizer_bytes,
)
from clipkit.training.preflight.options import (
    check_precision,
    check_windows,
    unused_options,
)
from clipkit.training.preflight.plan import (
    _activations,
    make_plan,
    schedule_factors,
)
from clipkit.training.preflight.run_plan import RunPlan
from clipkit.training.preflight.screen import draw, lines, screen
from clipkit.training.preflight.units import human_bytes
from tests.helpers import tiny
from tests.helpers.factories import pair, write_shard
from tests.helpers.series import CHANNELS, LENGTH, SeriesTower


def planned(shards, run, *callbacks, data=None, **options) -> RunPlan:
    """The plan of a run, taken when it starts."""
    plans = []

    class Plan(Callback):
        def on_train_start(self, trainer, pl_module):
            plans.append(make_plan(trainer, pl_module, trainer.datamodule, 64))

    trainer = tiny.trainer(run, Plan(), *callbacks, **{"max_steps": 3, **options})
    trainer.fit(tiny.module(), datamodule=data or tiny.data(shards))
    return plans[0]


def test_numbers_are_those_of_the_run(shards, tmp_path):
    plan = planned(shards, tmp_path, SaveCheckpoint(), accumulate_grad_batches=2)
    assert (plan.data.num_samples, plan.data.num_shards, plan.data.step_samples) == (23, 2, 8)
    assert (plan.length.steps_per_epoch, plan.length.num_steps, plan.data.dropped) == (3, 3, 3)
    assert plan.length.ends_by == "max_steps 3"
    assert plan.peak_rates == (1e-3, 1e-3)
    assert plan.captions.num_read == 23
    assert plan.notes == ["7 of 23 samples are dropped in every epoch, too few for a step of 8; "
                          "different ones each time"]  # fmt: skip
    text = dict(lines(plan))
    assert text["batch"] == "4 pairs per rank x 1 rank x 2 accumulated = 8 per step"
    assert text["workers"].startswith("none: each rank builds its batches itself")
    assert text["length"] == (
        "3 steps per epoch (3 samples left over); 3 steps = 24 samples = 1 epochs (max_steps 3)"
    )


def test_run_without_checkpoints_is_told(shards, tmp_path):
    (note, _) = planned(shards, tmp_path).notes
    assert "no SaveCheckpoint" in note


def test_captions_that_are_cut_are_counted(tmp_path):
    """Ten captions, four of them longer than the context of 16."""
    samples = []
    for number in range(10):
        words = " ".join(["word"] * (30 if number % 5 < 2 else 4))
        samples.append((f"{number:03d}", {**pair(number), "txt": words.encode()}))
    write_shard(tmp_path / "train" / "0.tar", samples)
    plan = planned(tmp_path, tmp_path / "run")
    captions = plan.captions
    assert (captions.num_read, captions.num_truncated, captions.median_tokens) == (10, 4, 6)


def test_plan_changes_nothing_of_the_run(shards, tmp_path):
    """Weights after three steps, with and without: the estimate draws no random numbers."""
    weights = []
    for callbacks in ((), (Preflight(),)):
        module = tiny.module()
        trainer = tiny.trainer(tmp_path, *callbacks, max_steps=3)
        trainer.fit(module, datamodule=tiny.data(shards))
        weights.append(module.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


class TestEstimates:
    def test_activations_of_a_linear_map_are_its_input(self):
        """A tower of one layer, counted by hand in the direction of growth: larger, more."""
        small = activation_bytes(tiny.encoder(), num_tokens=8)
        large = activation_bytes(tiny.encoder(), num_tokens=16)
        width, layers = 16, 1
        assert large > small > 0
        # Eight more tokens keep at least each layer's input, and q, k and v, in float32.
        assert large - small >= 8 * width * layers * 4 * 4

    @pytest.mark.parametrize(
        ("keep", "widths"),
        # input; with query, key, value, attention, its output, both layers of the MLP
        [("inputs", 1), ("products", 1 + 3 + 1 + 1 + 4 + 1)],
    )
    def test_what_checkpointing_keeps_of_a_block(self, keep, widths):
        """Counted by hand, from the difference that one more block makes."""
        width, tokens, heads = 16, 2 * 2 + 1, 2
        sizes = []
        for layers in (3, 4):
            module = tiny.module()
            vision = {**tiny.CONFIG["vision_cfg"], "layers": layers}
            module.encoder = from_open_clip({**tiny.CONFIG, "vision_cfg": vision})
            ActivationCheckpointing(keep=keep).setup(None, module, "fit")
            sizes.append(activation_bytes(module.encoder, num_tokens=8))
        of_softmax = heads if keep == "products" else 0
        assert sizes[1] - sizes[0] == 4 * tokens * (widths * width + of_softmax)

    def test_running_statistics_and_random_numbers_stay(self):
        torch.manual_seed(3)
        resnet = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}
        config = {**tiny.CONFIG, "vision_cfg": resnet}
        encoder = from_open_clip(config).train()
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        state = torch.get_rng_state()
        assert activation_bytes(encoder, 16) > 0
        assert torch.equal(torch.get_rng_state(), state)
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, before[name]), name

    @pytest.mark.parametrize(
        ("build", "floats"),
        [
            (lambda p: torch.optim.AdamW(p, lr=0.1), 2),
            (lambda p: torch.optim.SGD(p, lr=0.1), 0),
            (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
            (lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True), 3),
        ],
    )
    def test_optimizers_keep_so_many_numbers_a_parameter(self, build, floats):
        parameters = [torch.nn.Parameter(torch.ones(7, 3)), torch.nn.Parameter(torch.ones(5))]
        optimizer = build(parameters)
        assert optimizer_bytes(optimizer) == floats * 4 * 26

    def test_optimizer_of_unknown_demands(self):
        class Odd(torch.optim.SGD):
            def __init__(self, params, secret):
                super().__init__(params, lr=0.1)

        assert optimizer_bytes(Odd([torch.nn.Parameter(torch.ones(2))], "x")) is None

    def test_memory_is_the_sum_of_its_parts(self):
        encoder = tiny.encoder()
        count = sum(p.numel() for p in encoder.parameters())
        optimizer = torch.optim.AdamW(encoder.parameters())
        parts = memory_estimate(encoder, optimizer, 4, 2, activations=4000, average_bytes=4 * count)
        assert parts == {
            "weights": 4 * count,
            "gradients": 4 * count,
            "optimizer": 8 * count,
            "averages of the weights": 4 * count,
            "buckets of DDP": 4 * count,
            "activations": 4000,
            "inputs, embeddings of all ranks": 4 * 3 * 16 * 16 + (4 + 16) * 16 * 4,
        }

    def test_exchange_is_the_table_of_the_documentation(self):
        encoder = tiny.encoder()
        encoder.text_tower.requires_grad_(False)
        learned = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
        assert exchange_estimate(encoder, batch_size=4, world_size=1, accumulate=1) == {}
        assert exchange_estimate(encoder, batch_size=4, world_size=3, accumulate=2) == {
            "captions of the other ranks": 2 * (12 - 4) * 16 * 4,
            "log-sum-exps": 2 * 2 * 12 * 4,
            "gradients of the captions": 2 * 12 * 16 * 4,
            "gradients of the parameters": 4 * learned,
        }

    def test_further_towers_count(self):
        plain = tiny.encoder()
        series = SeriesTower()
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        before = memory_estimate(plain, optimizer, 4, 2, 0, average_bytes=0)
        exchanged = exchange_estimate(plain, batch_size=4, world_size=3, accumulate=2)
        kept = activation_bytes(plain, num_tokens=8)
        model = with_towers(plain, {"series": series}, {"series": LinearLabelHead(16, 5)})
        after = memory_estimate(model, optimizer, 4, 2, 0, average_bytes=0)
        count = sum(p.numel() for p in [*series.parameters(), *model.heads["series"].parameters()])
        assert after["weights"] - before["weights"] == 4 * count
        name = "inputs, embeddings of all ranks"
        assert input_bytes(model) == 3 * 16 * 16 + 4 * CHANNELS * LENGTH
        assert after[name] - before[name] == 4 * 4 * CHANNELS * LENGTH + 8 * 16 * 4
        more = exchange_estimate(model, batch_size=4, world_size=3, accumulate=2)
        pair = (12 - 4) * 16 * 4 + 2 * 12 * 4 + 12 * 16 * 4
        assert more["pairs of further modalities"] == 2 * pair
        assert (
            more.items()
            >= {
                **exchanged,
                "gradients of the parameters": exchanged["gradients of the parameters"] + 4 * count,
            }.items()
        )
        # at least the input and the first layer's output of the convolution
        assert activation_bytes(model, num_tokens=8) - kept >= 4 * 8 * (LENGTH - 2)


class TestChecks:
    def test_half_precision_on_a_cpu(self):
        with pytest.raises(ConfigError, match="16-mixed is not for a CPU; use bf16-mixed"):
            check_precision("16-mixed", torch.device("cpu"))

    @pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_weights_in_half_precision(self, precision, device):
        scale = torch.tensor(100.0).log().to(torch.bfloat16)
        assert scale - 5e-4 == scale  # a step of the optimizer
        with pytest.raises(ConfigError, match=f"{precision} stores weights in half precision"):
            check_precision(precision, torch.device(device))

    def test_window_longer_than_an_epoch(self):
        check_windows(batches_per_epoch=5, accumulate=5)
        with pytest.raises(ConfigError, match="6 batches make a step, an epoch has 5"):
            check_windows(batches_per_epoch=5, accumulate=6)

    @pytest.mark.parametrize(
        ("config", "limits", "expected"),
        [
            ({"data": {"validation": {"batch_size": 8}, "val": "x"}}, {}, []),
            (
                {"data": {"batch_size": 8}, "model": {"micro_batch_size": 8}},
                {},
                ["model.micro_batch_size: a batch has no more than 8 pairs"],
            ),
            ({"data": {"batch_size": 8}, "model": {"micro_batch_size": 4}}, {}, []),
            (
                {"data": {"validation": {"caption": {}}}},
                {},
                ["data.validation.caption: there is no data.val"],
            ),
            (
                {"trainer": {"val_check_interval": 5}},
                {},
                ["trainer.val_check_interval: there is no data.val"],
            ),
            (
                {"trainer": {"callbacks": [{"class_path": "a.SaveCheckpoint",
                                            "init_args": {"monitor": "val/loss"}}]}},
                {},
                ["trainer.callbacks: SaveCheckpoint.monitor val/loss: there is no data.val"],
            ),
            (
                {
                    "trainer": {
                        "callbacks": {
                            "class_path": "clipkit.training.callbacks.SaveCheckpoint",
                            "init_args": {"monitor": "val/loss"},
                        }
                    }
                },
                {},
                ["trainer.callbacks: SaveCheckpoint.monitor val/loss: there is no data.val"],
            ),
            (
                {"data": {"samples": {"label_field": "json:class"}}, "model": {"loss": {}}},
                {},
                ["data.samples.label_field: no loss uses labels"],
            ),
            (
                {"data": {"samples": {"label_field": "json:class"}},
                 "model": {"loss": {"terms": {"own": {"loss": {"class_path": "a.LabelLoss"}}}}}},
                {},
                [],
            ),
            (
                {},
                {"max_steps": 100, "max_epochs": 50},
                ["trainer.max_steps: trainer.max_epochs ends the run before"],
            ),
            ({}, {"max_steps": 100, "max_epochs": 100}, []),
            (
                {"trainer": {"gradient_clip_algorithm": "norm"}},
                {},
                ["trainer.gradient_clip_algorithm: there is no gradient_clip_val"],
            ),
        ],
    )  # fmt: skip
    def test_options_without_effect(self, config, limits, expected):
        assert unused_options(config, limits) == expected


class TestScreen:
    def test_it_fits_a_terminal_and_says_everything(self, shards, tmp_path):
        plan = planned(shards, tmp_path)
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(screen(plan))
        text = console.export_text()
        assert len(text.splitlines()) < 40
        for word in ("23 samples in 2 shards", "= 4 per step", "memory per rank", "captions", "█"):
            assert word in text

    def test_schedules_have_their_shapes(self):
        cosine = schedule_factors(WarmupCosine(warmup=0.1), 1000)
        assert max(cosine) == pytest.approx(1, abs=0.01)
        assert cosine[0] < 0.05
        assert cosine[-1] == 0
        stable = schedule_factors(WarmupStableDecay(cooldown=0.2), 1000)
        assert stable[20:50] == [1.0] * 30
        assert draw(stable, 3)[0][20:50] == "█" * 30
        assert schedule_factors(WarmupCosine(), float("inf"))[-1] == 0

    @pytest.mark.parametrize(
        ("count", "text"), [(12, "12 B"), (1010, "1010 B"), (3 * 2**30, "3 GiB")]
    )
    def test_bytes(self, count, text):
        assert human_bytes(count) == text


class TestCommand:
    def test_preflight_only_leaves_before_the_first_step(self, shards, tmp_path, capsys):
        callbacks = [
            {"class_path": "clipkit.training.callbacks.SaveCheckpoint"},
            {"class_path": "clipkit.training.callbacks.KeyLog",
             "init_args": {"path": str(tmp_path / "run" / "keys.txt")}},
        ]  # fmt: skip
        words = tiny.words(shards, tmp_path / "run", "--trainer.enable_checkpointing=true")
        words += [f"--trainer.callbacks+={json.dumps(callback)}" for callback in callbacks]
        words += ["--data.validation.batch_size=7"]
        assert main(["fit", *words, "--preflight_only"]) == 0
        text = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert "4 steps = 16 samples" in text
        assert "data.validation.batch_size: there is no data.val" in text
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("word", "expected"),
        [
            ("--trainer.precision=16-mixed", "trainer.precision: 16-mixed is not for a CPU"),
            ("--trainer.accumulate_grad_batches=6", "an epoch has 5"),
            ("--model.schedule.warmup=4", "warmup of 4 steps"),
        ],
    )
    def test_what_cannot_work_is_one_line(self, shards, tmp_path, capsys, word, expected):
        assert main(["fit", *tiny.words(shards, tmp_path / "run", word, "--preflight_only")]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(errors) == 1
        assert expected in errors[0]


def test_no_rank_runs_synchronised_batch_norm_alone(tmp_path):
    trainer, module = tiny.trainer(tmp_path), tiny.module()
    assert _activations(trainer, module, 4, 16) is not None
    module.encoder.image_tower.norm = torch.nn.SyncBatchNorm(8)
    assert _activations(trainer, module, 4, 16) is None
