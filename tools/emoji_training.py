"""Small encoders of emoji and their names, trained in a plain loop: for the tools next to it."""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from clipkit.data import (
    CaptionPicker,
    PairStream,
    SampleOptions,
    ShardIndex,
    TrainTransform,
    TransformersTokenizer,
)
from clipkit.losses import CombinedLoss, ContrastiveLoss
from clipkit.models import DualEncoder, OpenClipImageTower, TransformersTextTower
from clipkit.optim import ParameterGroups, Progress, WarmupCosine

SIZE = 32
WIDTH = 128
IMAGE = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
ARTISTS = ("google", "fluent3d")


@dataclass(frozen=True)
class Emoji:
    """A drawing."""

    file: str
    artist: str
    codepoint: str
    name: str
    keywords: tuple[str, ...]
    subgroup: str


def read_emoji(folder: Path) -> list[Emoji]:
    """Drawings of ``captions.csv``: vendor, file, codepoint, name, keywords, subgroup."""
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        return [
            Emoji(
                row["file"], row["vendor"], row["codepoint"].upper(), row["name"],
                tuple(filter(None, row["keywords"].split("|"))), row["subgroup"],
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def read_names(folder: Path) -> dict[str, dict[str, str]]:
    """Names by codepoint and language, of ``captions_multilingual.csv``."""
    names: dict[str, dict[str, str]] = {}
    with (folder / "captions_multilingual.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            names.setdefault(row["codepoint"].upper(), {})[row["lang"]] = row["name"]
    return names


def write_tokenizer(folder: Path, texts: Sequence[str], vocab_size: int) -> Path:
    """A unigram tokenizer of these texts, in the form of transformers."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import UnigramTrainer
    from transformers import PreTrainedTokenizerFast

    if (folder / "tokenizer.json").exists():
        return folder
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def make_encoder(tokenizer: Path, context_length: int) -> DualEncoder:
    """A ResNet of four blocks, and a BERT of two layers, with weights by the seed that was set."""
    text = make_text_tower(tokenizer, context_length)
    return DualEncoder(OpenClipImageTower(IMAGE), text)


def make_text_tower(tokenizer: Path, context_length: int) -> TransformersTextTower:
    """A BERT of two layers, with weights by the seed that was set."""
    path = f"transformers:{tokenizer}"
    bert = {
        "model_type": "bert", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 192, "max_position_embeddings": 64, "pad_token_id": 0,
        "vocab_size": TransformersTokenizer(str(tokenizer)).vocab_size,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    return TransformersTextTower(
        bert, WIDTH, pretrained=False, context_length=context_length, tokenizer_name=path
    )


def train(
    shards: Path,
    caption: CaptionPicker,
    tokenizer: Path,
    *,
    steps: int,
    seed: int,
    context_length: int = 24,
) -> DualEncoder:
    """A plain loop over a stream."""
    torch.manual_seed(seed)
    encoder = make_encoder(tokenizer, context_length).train()
    stream = PairStream(
        ShardIndex.from_urls(str(shards)),
        tokenizer=TransformersTokenizer(str(tokenizer), context_length),
        batch_size=BATCH_SIZE,
        seed=seed,
        image_transform=TrainTransform(SIZE, (0.9, 1.0), (1.0, 1.0)),
        samples=SampleOptions(caption=caption),
    )
    loss = CombinedLoss(ContrastiveLoss())
    optimizer = ParameterGroups().optimizer(
        encoder, lambda groups: torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.1)
    )
    schedule, numbers = WarmupCosine(warmup=0.1), count()
    for epoch in count():
        stream.set_epoch(epoch)
        for batch in stream:
            step = next(numbers)
            if step == steps:
                return encoder.eval()
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * schedule.at(Progress(step, steps))
            loss(encoder(batch), batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stream.commit(batch)
    raise AssertionError("an endless loop ended")


def run_missing(
    output: Path,
    runs: Iterable[tuple[str, int]],
    measure: Callable[[str, int], Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Run what ``output`` lacks, append each result, and return all of them."""
    done = {(result["arm"], result["seed"]) for result in read_results(output)}
    for arm, seed in runs:
        if (arm, seed) in done:
            continue
        start, cpu = time.monotonic(), time.process_time()
        metrics = measure(arm, seed)
        result = {
            "arm": arm, "seed": seed, "seconds": round(time.monotonic() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1), **metrics,
        }  # fmt: skip
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result, ensure_ascii=False) + "\n")
        print(arm, seed, result["cpu_seconds"], "s", flush=True)
    return read_results(output)


def read_results(output: Path) -> list[dict[str, Any]]:
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    return [json.loads(line) for line in lines]


def spread(results: Sequence[Mapping[str, Any]], arm: str, key: str) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    values = [100 * result[key] for result in results if result["arm"] == arm and key in result]
    if not values:
        return "–"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if values[1:] else 0:.1f}"
