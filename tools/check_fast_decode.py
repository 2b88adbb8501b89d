"""What the fast decode costs a trained model: its recalls with exact and with fast pixels.

    python tools/check_fast_decode.py --model last.ckpt --captions val.csv --enlarge 4

The table has the columns image (a path beside it) and caption; prints JSON. With --enlarge the
pictures are first written again as JPEGs so many times as wide, so that the fast path decodes
them at a much reduced scale.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path

import torch
from PIL import Image

from clipkit.data import ImageDecoder
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.metrics.functional import retrieval_recall
from clipkit.models import DualEncoder, load_encoder

BATCH = 50


def enlarged(data: bytes, factor: int) -> bytes:
    """The same picture as a JPEG, ``factor`` times as wide and high."""
    with Image.open(io.BytesIO(data)) as picture:
        size = (picture.width * factor, picture.height * factor)
        larger = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    out = io.BytesIO()
    larger.save(out, "JPEG", quality=90)
    return out.getvalue()


@torch.inference_mode()
def measure(encoder: DualEncoder, captions: Path, factor: int) -> dict[str, object]:
    """Recalls of both ways of decoding, and how far the pixels are apart."""
    with captions.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["image"] for row in rows})
    numbers = {name: number for number, name in enumerate(names)}
    files = [(captions.parent / name).read_bytes() for name in names]
    if factor > 1:
        files = [enlarged(data, factor) for data in files]
    tower = encoder.text_tower
    tokenizer = tokenizer_from_name(tower.tokenizer_name, tower.context_length)
    texts = [row["caption"] for row in rows]
    parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    text = torch.cat([encoder.encode_text(tokenizer(part)) for part in parts])
    matches = torch.tensor([numbers[row["image"]] for row in rows])
    result: dict[str, object] = {"num_images": len(names), "num_captions": len(rows)}
    pixels = {}
    for name, fast in (("exact", False), ("fast", True)):
        decode = ImageDecoder(encoder.image_tower.image_size, fast=fast)
        pixels[name] = torch.stack([decode(data) for data in files])
        image = torch.cat([encoder.encode_image(part) for part in pixels[name].split(BATCH)])
        recalls = retrieval_recall(image, text, matches)
        result[name] = {key: round(float(value), 4) for key, value in recalls.items()}
    apart = (pixels["exact"].float() - pixels["fast"].float()).abs().mean()
    result["mean_absolute_difference_levels"] = round(float(apart), 3)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--enlarge", type=int, default=1, metavar="TIMES")
    args = parser.parse_args()
    encoder = load_encoder(args.model).eval()
    print(json.dumps(measure(encoder, args.captions, args.enlarge), indent=2))


if __name__ == "__main__":
    main()
