"""What an import brings along, seen in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SLOW = (
    *("open_clip", "timm", "transformers", "tokenizers", "torchvision", "torchmetrics"),
    *("lightning", "torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.tensor"),
)
IMPORTS = {
    "from clipkit.data import ShardIndex": ("torch",),
    "import torch": (),
    "import clipkit.metrics.functional": ("torchmetrics",),
    "import clipkit.data, clipkit.models, clipkit.losses": SLOW,
    "from clipkit.data import OpenClipTokenizer; OpenClipTokenizer().encode('a dog')": (
        *("open_clip", "transformers"),
    ),
}
"""Statements, run after each other, and modules that they must not import."""

CODE = f"""
import importlib, json, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "jsonargparse"):
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
found, of_torch = {{}}, set()
for code, absent in {IMPORTS!r}.items():
    before = set(sys.modules)
    exec(code, {{}})
    new = set(sys.modules) - before
    if code == "import torch":  # some versions import a few of these themselves
        of_torch = new
    found[code] = sorted(set(absent) & set(sys.modules) - of_torch)

import clipkit
above = ("clipkit.training", "clipkit.tuning", "clipkit.cli")
walk = pkgutil.walk_packages(clipkit.__path__, "clipkit.", onerror=lambda name: None)
lower = [module.name for module in walk if not module.name.startswith(above)]
for name in lower:
    importlib.import_module(name)
try:
    importlib.import_module("clipkit.training")
    problem = ""
except ImportError as error:
    problem = str(error)
print(json.dumps([found, len(lower), problem]))
"""


@pytest.fixture(scope="module")
def seen() -> Any:
    """Modules that were there after each statement, and how the package was imported."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_lower_packages_import_without_lightning(seen: Any) -> None:
    assert seen[1] > 50


def test_training_does_need_lightning(seen: Any) -> None:
    """The block above blocks: otherwise the test before could not fail."""
    assert "lightning" in seen[2]
    assert "is blocked" in seen[2]


@pytest.mark.parametrize("code", IMPORTS)
def test_what_is_slow_is_imported_when_it_is_used(seen: Any, code: str) -> None:
    assert seen[0][code] == []
