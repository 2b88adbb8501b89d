"""Embed the same shards with the same open_clip model: clipkit, CLIP_benchmark, clip-retrieval.

Each function embeds all samples and returns the seconds from the first read to the last result; the
model is loaded before. Data are in CLIP_benchmark's layout.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch

from clipkit.collection.embedding import EmbedPlan, embed_collection, start_collection
from clipkit.evaluation import open_dataset
from clipkit.models import from_open_clip


class OpenClip:
    """A model of open_clip with random weights, its transform and tokenizer; and clipkit's copy.

    Args:
        name: Name of the model, or path of the JSON file of its configuration.
    """

    def __init__(self, name: str) -> None:
        import open_clip

        self.name = name
        torch.manual_seed(0)
        self.encoder = from_open_clip(name).eval()
        if name.endswith(".json"):
            open_clip.add_model_config(Path(name))
            name = Path(name).stem
        torch.manual_seed(0)
        model, _, self.transform = open_clip.create_model_and_transforms(name)
        self.model = model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)


def clipkit(model: OpenClip, root: Path, output: Path, options: dict[str, Any]) -> float:
    """Write a collection, with hashes and sizes of the images."""
    shutil.rmtree(output, ignore_errors=True)
    plan = EmbedPlan(model.name, str(root), output, **options)
    start = time.perf_counter()
    data = open_dataset(root)
    info = start_collection(plan, model.encoder, None, data)
    embed_collection(plan, info, model.encoder, data)
    return time.perf_counter() - start


def clip_benchmark(model: OpenClip, root: Path, output: Path, options: dict[str, Any]) -> float:
    """Extract features as CLIP_benchmark does: images for its probe, pairs for its retrieval."""
    from clip_benchmark.datasets.builder import build_wds_dataset
    from clip_benchmark.metrics.linear_probe import Featurizer
    from clip_benchmark.metrics.zeroshot_retrieval import evaluate

    start = time.perf_counter()
    dataset = build_wds_dataset("set", model.transform, data_dir=str(root))
    loader = torch.utils.data.DataLoader(
        dataset.batched(options["batch_size"]),
        batch_size=None,
        num_workers=options["num_workers"],
    )
    if not options["images_only"]:
        evaluate(model.model, loader, model.tokenizer, "cpu", amp=False)
        return time.perf_counter() - start
    featurizer = Featurizer(model.model)
    with torch.no_grad():
        features = torch.cat([featurizer(batch[0]).cpu() for batch in loader])
    torch.save(features, output)
    return time.perf_counter() - start


def clip_retrieval(
    package: Path, model: OpenClip, root: Path, output: Path, options: dict[str, Any]
) -> float:
    """Run clip-retrieval's reader, mapper and writer.

    Args:
        package: Folder of its source code; it is not installed.
        model: The model, in place of the one that it would load.
        root: The data.
        output: Folder of its embeddings.
        options: Batch size, number of workers, images only.
    """
    shutil.rmtree(output, ignore_errors=True)
    all_clip: Any = types.ModuleType("all_clip")
    all_clip.load_clip = lambda **_: (model.model, model.transform, model.tokenizer)
    sys.modules["all_clip"] = all_clip
    reader, mapper, writer, runner = (
        _module(package / f"clip_retrieval/clip_inference/{name}.py")
        for name in ("reader", "mapper", "writer", "runner")
    )
    texts = not options["images_only"]
    urls = sorted(map(str, (root / "test").glob("*.tar")))
    start = time.perf_counter()
    runner.Runner(
        reader_builder=lambda sampler: reader.WebdatasetReader(
            sampler, model.transform, model.tokenizer, urls,
            options["batch_size"], options["num_workers"], enable_text=texts,
        ),
        mapper_builder=lambda: mapper.ClipMapper(True, texts, False, False, model.name, False, ""),
        writer_builder=lambda part: writer.NumpyWriter(part, str(output), texts, True, False, 1),
        logger_builder=lambda _: _NoLogger(),
        output_partition_count=1,
    )(0)  # fmt: skip
    return time.perf_counter() - start


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"of_clip_retrieval_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _NoLogger:
    def start(self) -> None:
        pass

    def __call__(self, _: object) -> None:
        pass

    def end(self) -> None:
        pass
