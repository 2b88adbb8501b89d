"""Recall on captions of more than 77 tokens: truncated, with stretched positions, and fine-tuned.

Each image is a grid of twelve of the demo's drawings, and its caption names them in order, in
about 100 tokens. Evaluation images come in groups of four that differ in the last four drawings
only, of which a text tower of 77 tokens reads one. A model of 77 tokens is trained, then continued
with 77 tokens and with 248 (Long-CLIP's stretching), for equally many steps. Prints JSON::

    python tools/long_captions.py --steps 1500 --more-steps 500
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clipkit.data import OpenClipTokenizer
from clipkit.data.demo.concepts import drawing, load_concepts
from clipkit.losses import contrastive_loss
from clipkit.metrics import retrieval_recall
from clipkit.models import DualEncoder, from_open_clip

ROWS, COLUMNS, SIDE, NUM_DRAWINGS, GROUP, SAME = 3, 4, 24, 40, 4, 8
PLACES = [f"{row} row, {column} place" for row in ("top", "middle", "bottom")
          for column in ("first", "second", "third", "last")]  # fmt: skip
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": 4, "width": 128, "head_width": 32, "patch_size": 24},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4},
}


def load_drawings() -> tuple[list[str], Tensor]:
    """Names of the first drawings with short names, and their pixels."""
    names, pixels = [], []
    for concept in load_concepts():
        data = drawing(concept, "twemoji") if len(concept.name.split()) == 1 else None
        if data is None or concept.name in names:
            continue
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE))
        names.append(concept.name)
        pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        if len(names) == NUM_DRAWINGS:
            break
    return names, torch.stack(pixels)


class Grids:
    """Images of twelve drawings with captions."""

    def __init__(self) -> None:
        self.names, self.pixels = load_drawings()
        self.tokenizer = OpenClipTokenizer(context_length=248)

    def draw(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images and token ids of grids: pixels on a square canvas, captions in reading order."""
        grid = self.pixels[chosen].view(-1, ROWS, COLUMNS, 3, SIDE, SIDE)
        image = grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, ROWS * SIDE, COLUMNS * SIDE)
        texts = [
            ", ".join(f"{place}: {self.names[i]}" for place, i in zip(PLACES, row, strict=True))
            for row in chosen.tolist()
        ]
        encoded = [torch.tensor(self.tokenizer.encode(text)) for text in texts]
        tokens = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)
        return F.pad(image, (0, 0, 12, 12), value=255), tokens

    def evaluation(self, num_groups: int) -> Tensor:
        """Groups of grids that agree in the first drawings."""
        generator = torch.Generator().manual_seed(1)
        size = (num_groups, GROUP, ROWS * COLUMNS)
        chosen = torch.randint(0, NUM_DRAWINGS, size, generator=generator)
        chosen[:, :, :SAME] = chosen[:, :1, :SAME]
        return chosen.flatten(0, 1)


def read_to(tokens: Tensor, context_length: int) -> Tensor:
    """Truncate captions as the tokenizer does: the last token is the end."""
    if tokens.shape[1] <= context_length:
        return tokens
    cut = tokens[:, :context_length].clone()
    is_long = tokens[:, context_length:].any(dim=1)
    cut[is_long, -1] = tokens.max()
    return cut


def embed(encoder: DualEncoder, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    tokens = read_to(tokens, encoder.text_tower.context_length)
    return encoder.encode_image(images), encoder.encode_text(tokens)


def train(encoder: DualEncoder, grids: Grids, steps: int, lr: float, seed: int) -> float:
    """Train, and return the last loss."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        size = (64, ROWS * COLUMNS)
        image, text = embed(
            encoder, *grids.draw(torch.randint(0, NUM_DRAWINGS, size, generator=generator))
        )
        loss = contrastive_loss(image, text, encoder.logit_scale).value
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(step, round(loss.item(), 3), file=sys.stderr, flush=True)
    return loss.item()


@torch.no_grad()
def recall(encoder: DualEncoder, grids: Grids, num_groups: int = 250) -> dict[str, float]:
    """Recall at 1 on grids of which four at a time differ late in the caption."""
    encoder.eval()
    parts = [embed(encoder, *grids.draw(part)) for part in grids.evaluation(num_groups).split(100)]
    image, text = (torch.cat(rows) for rows in zip(*parts, strict=True))
    found = retrieval_recall(image, text, torch.arange(len(image)), ks=(1, GROUP))
    encoder.train()
    return {key: round(value, 4) for key, value in found.items()}


def longer(encoder: DualEncoder, folder: Path) -> DualEncoder:
    """The same model with 248 tokens."""
    state = {"logit_scale": encoder.log_logit_scale.detach()}
    for tower in ("image_tower", "text_tower"):
        state |= encoder.get_submodule(tower).state_dict()
    torch.save(state, folder / "weights.pt")
    return from_open_clip(CONFIG, pretrained=str(folder / "weights.pt"), context_length=248)


def main() -> None:
    """Train, stretch, fine-tune, measure."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--more-steps", type=int, default=500)
    args = parser.parse_args()
    torch.manual_seed(0)
    grids = Grids()
    encoder = from_open_clip(CONFIG)
    train(encoder, grids, args.steps, 1e-3, seed=2)
    rows: dict[str, Any] = {"77 tokens": recall(encoder, grids)}
    with tempfile.TemporaryDirectory() as folder:
        stretched = longer(encoder, Path(folder))
    rows["248 tokens, stretched"] = recall(stretched, grids)
    for name, model in (("77 tokens", encoder), ("248 tokens", stretched)):
        train(model, grids, args.more_steps, 3e-4, seed=3)
        rows[f"{name}, {args.more_steps} further steps"] = recall(model, grids)
    lengths = (grids.draw(grids.evaluation(25))[1] != 0).sum(dim=1)
    rows["tokens of a caption"] = [int(lengths.min()), int(lengths.max())]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
