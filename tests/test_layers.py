"""The lower packages need no Lightning, and a plain loop over them trains."""

from __future__ import annotations

import subprocess
import sys

import torch

from clipkit.data import PairStream, ShardIndex
from clipkit.data.text.tokenizers import OpenClipTokenizer
from clipkit.losses import CombinedLoss, ContrastiveLoss
from clipkit.models import from_open_clip
from tests.helpers import tiny

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


def test_lower_packages_import_without_lightning():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_training_does_need_lightning():
    """The block above blocks: otherwise the test before could not fail."""
    code = BLOCKED.replace("lower = [name for name in names if not name.startswith(above)]",
                           "lower = ['clipkit.training']")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "lightning" in done.stderr


def test_plain_loop_trains(tmp_path):
    """No trainer: what a plain loop over the parts looks like."""
    folder = tiny.shards(tmp_path)
    torch.manual_seed(0)

    encoder = from_open_clip(tiny.CONFIG)
    tokenizer = OpenClipTokenizer(context_length=16)
    index = ShardIndex.from_urls(str(folder / "train" / "*.tar"))
    stream = PairStream(index, tokenizer=tokenizer, batch_size=8, image_size=16)
    loss = CombinedLoss(ContrastiveLoss())
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    losses = []
    for _epoch in range(12):
        for batch in stream:
            terms = loss(encoder(batch), batch)
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            stream.commit(batch)
            losses.append(terms["loss"].item())

    assert len(losses) == 24
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
