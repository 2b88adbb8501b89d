"""A plain loop over the lower packages trains."""

from __future__ import annotations

import torch

from clipkit.data import PairStream, ShardIndex
from clipkit.data.text.tokenizers import OpenClipTokenizer
from clipkit.losses import CombinedLoss, ContrastiveLoss
from clipkit.models import from_open_clip
from tests.helpers import tiny


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
