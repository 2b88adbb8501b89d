"""Made-up photos of 500 x 375 pixels in shards, to measure a loader with: about 50 KB each.

python tools/photo_shards.py OUT --photos 6000
"""

from __future__ import annotations

import argparse
import io
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

PER_SHARD = 500
WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "red",
    "small",
    "dog",
    "street",
    "house",
    "tree",
    "with",
    "near",
)


def write_shard(folder: Path, number: int, count: int) -> None:
    """One tar of pictures that compress like photos, with captions of 5 to 20 words."""
    import simplejpeg
    from PIL import Image

    rng = np.random.default_rng(number)
    with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
            pixels = pixels + rng.integers(-12, 13, pixels.shape, dtype=np.int16)
            image = simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8)), quality=85
            )
            words = rng.choice(WORDS, size=int(rng.integers(5, 21)))
            for extension, data in (("jpg", image), ("txt", " ".join(words).encode())):
                info = tarfile.TarInfo(f"{number:05d}{index:05d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def main() -> None:
    """Write the shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", type=int, default=6000)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    shards = -(-args.photos // PER_SHARD)
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_shard, [args.output] * shards, range(shards), [PER_SHARD] * shards))


if __name__ == "__main__":
    main()
