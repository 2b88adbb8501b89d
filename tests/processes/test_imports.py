"""What an import brings along, seen in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import importlib, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "jsonargparse"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import clipkit
above = ("clipkit.training", "clipkit.tuning", "clipkit.cli")
walk = pkgutil.walk_packages(clipkit.__path__, "clipkit.", onerror=lambda name: None)
names = [module.name for module in walk]
lower = [name for name in names if not name.startswith(above)]
for name in lower:
    importlib.import_module(name)
print(len(lower))
"""
SLOW = (
    *("open_clip", "timm", "transformers", "tokenizers", "torchvision", "torchmetrics"),
    *("lightning", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.tensor"),
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_lower_packages_import_without_lightning() -> None:
    done = python(BLOCKED)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_training_does_need_lightning() -> None:
    """The block above blocks: otherwise the test before could not fail."""
    done = python(
        BLOCKED.replace(
            "lower = [name for name in names if not name.startswith(above)]",
            "lower = ['clipkit.training']",
        )
    )
    assert done.returncode != 0
    assert "lightning" in done.stderr


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from clipkit.data import ShardIndex", ("torch",)),
        ("import clipkit.metrics.functional", ("torchmetrics",)),
        (
            "from clipkit.data import OpenClipTokenizer; OpenClipTokenizer().encode('a dog')",
            ("open_clip", "transformers"),
        ),
        ("import clipkit.data, clipkit.models, clipkit.losses", SLOW),
    ],
)
def test_what_is_slow_is_imported_when_it_is_used(code: str, absent: tuple[str, ...]) -> None:
    # Some versions of torch import a few of these themselves.
    before = "import torch; " if "torch" not in absent else ""
    done = python(
        f"import sys; {before}before = set(sys.modules); {code}; "
        f"print(*(set({absent!r}) & set(sys.modules) - before))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
