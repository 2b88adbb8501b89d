"""The private names of Lightning and torch that clipkit needs: which one moved, and no others."""

from __future__ import annotations

import ast
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch.plugins.io.wrapper as wrapper
import pytest
import torch
import torch._dynamo
import torch._inductor
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState

import clipkit
from clipkit.training import lightning_compat as compat

COMPAT = Path(compat.__file__)
OF_TRAINER = (
    *("callbacks", "datamodule", "log_every_n_steps", "fit_loop._should_accumulate"),
    *("fit_loop._combined_loader", "fit_loop.max_batches", "val_check_batch"),
    *("fit_loop.epoch_loop._broadcast_sigterm_tensor", "_signal_connector._original_handlers"),
    "_checkpoint_connector.resume_start",
    *("_accelerator_connector.cluster_environment", "strategy._checkpoint_io"),
)
BELOW_TRAINING = {
    "_assert_async": torch,
    "_foreach_lerp_": torch,
    "_foreach_mul_": torch,
    "_version": torch.Tensor,
    "_BatchNorm": torch.nn.modules.batchnorm,
    "_subclasses": torch,
    "_cache": fsspec.AbstractFileSystem,
}
"""Names that torch documents, or uses in its own optimizers, and fsspec's open file systems."""
OF_OTHERS = {"_SubParsersAction", "_actions", "_trial_id", "_replace", "_exit"}
"""argparse, Optuna, named tuples, and the documented os._exit."""
FOR_TYPES = {"_typeshed"}
"""Modules that only type checkers import."""


def trainer() -> Trainer:
    return Trainer(barebones=True, accelerator="cpu")


def fused() -> torch.optim.Optimizer:
    return torch.optim.AdamW([nn.Parameter(torch.zeros(1))], fused=True)


def compiled() -> nn.Module:
    module = nn.Linear(1, 1)
    module.compile()
    return module


HOLDERS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "Trainer": (trainer, OF_TRAINER),
    "_WrappingCheckpointIO": (wrapper._WrappingCheckpointIO, ("_checkpoint_io",)),
    "WandbLogger": (
        lambda: WandbLogger(offline=True),
        ("_wandb_init", "_id", "_log_model"),
    ),
    "GradScaler": (lambda: torch.amp.GradScaler("cpu"), ("_per_optimizer_states",)),
    "a fused optimizer": (fused, ("_step_supports_amp_scaling",)),
    "a compiled module": (compiled, ("_compiled_call_impl",)),
    "DDPStrategy": (DDPStrategy, ("_ddp_kwargs", "_timeout")),
    "ModelParallelStrategy": (ModelParallelStrategy, ("_timeout",)),
    "Timer": (Timer, ("_interval",)),
    "a sharded module": (lambda: FSDPModule, ("_get_fsdp_state",)),
    "the state of a sharded module": (FSDPState, ("_fsdp_param_group",)),
    "torch": (
        lambda: torch,
        (
            *("_dynamo.config.optimize_ddp", "_subclasses.fake_tensor.FakeTensorMode"),
            *("utils._python_dispatch.TorchDispatchMode", "utils._pytree.tree_leaves"),
            "_inductor.list_mode_options",
            *("cuda.memory._record_memory_history", "cuda.memory._dump_snapshot"),
            *("ops.aten._scaled_mm", "ops.aten._scaled_dot_product_flash_attention"),
            "ops.aten._scaled_dot_product_flash_attention_for_cpu",
            "ops.aten._scaled_dot_product_efficient_attention",
            "ops.aten._scaled_dot_product_cudnn_attention",
        ),
    ),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_every_name_is_where_it_was(name: str) -> None:
    make, paths = HOLDERS[name]
    holder = make()
    for path in paths:
        assert exists(holder, path), f"{name} has no {path} any more: mend {COMPAT.name}"


def exists(holder: object, path: str) -> bool:
    try:
        attrgetter(path)(holder)
    except AttributeError:
        return False
    return True


def test_names_of_torch_and_fsspec_below_training() -> None:
    moved = [name for name, holder in BELOW_TRAINING.items() if not hasattr(holder, name)]
    assert not moved


def test_the_progress_of_a_fit_loop_has_the_form_that_is_rewritten() -> None:
    fit_loop = trainer().fit_loop
    state = fit_loop.state_dict()
    compat.rewrite_progress(state, epoch=2, done=3, steps_to_log=7)
    fit_loop.load_state_dict(state)
    assert fit_loop.epoch_progress.state_dict()["current"]["processed"] == 2
    assert fit_loop.epoch_loop.batch_progress.current.ready == 3
    assert fit_loop.epoch_loop._batches_that_stepped == 7


def test_private_names_are_used_in_one_module_only() -> None:
    """Of other libraries: clipkit's own are those of the object itself, or of its own module."""
    checked = {part for _, paths in HOLDERS.values() for path in paths for part in path.split(".")}
    root = Path(clipkit.__file__).parent
    for path in root.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        nodes = list(ast.walk(tree))
        own = {n.attr for n in nodes if isinstance(n, ast.Attribute) and is_self(n.value)}
        allowed = {*own, *BELOW_TRAINING, *OF_OTHERS, *FOR_TYPES}
        if path == COMPAT:
            allowed |= {*checked, "_WrappingCheckpointIO", "_batches_that_stepped"}
        for node in nodes:
            for name in names_of_others(node):
                assert name in allowed, (
                    f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}: {name}"
                )


def names_of_others(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom | ast.Import):
        modules = [alias.name for alias in node.names]
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        is_own = modules[-1].startswith("clipkit")
        names = [] if is_own else [part for module in modules for part in module.split(".")]
    elif isinstance(node, ast.Attribute) and not is_self(node.value):
        names = [node.attr]
    elif isinstance(node, ast.Call) and is_name(node.func, "getattr", "hasattr", "setattr"):
        names = [str(part.value) for part in node.args[1:2] if isinstance(part, ast.Constant)]
    else:
        names = []
    return [name for name in names if name.startswith("_") and not name.startswith("__")]


def is_self(node: ast.AST) -> bool:
    return is_name(node, "self", "cls")


def is_name(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names
