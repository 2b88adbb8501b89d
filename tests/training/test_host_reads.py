"""A complete fit reads no tensor between logged steps, which would wait for a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkit.data import CaptionMask, OptionalCaption, OptionalImage, TrainTransform
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    GlobalContrastiveLoss,
    LabelLoss,
    ModalityPairLoss,
    WeightedTerm,
)
from clipkit.losses.contrastive import select_pairs
from clipkit.models import PrototypeLabelHead, from_open_clip, with_towers
from clipkit.training import PairOptions
from clipkit.types import Embeddings
from tests.helpers import tiny
from tests.helpers.host_reads import ON_THE_CPU, ROOT, recorded_fit, recorded_reads
from tests.helpers.oracles import make_batch
from tests.helpers.series import Series, SeriesTower, write_series

OBJECTIVES = ["pairs", "labels", "global", "prototypes"]


def module_of(name: str):
    module = tiny.module(labels=name == "labels", retrieval_pairs=0)
    if name == "global":
        module.loss = CombinedLoss(GlobalContrastiveLoss(23))
    if name == "prototypes":
        head = PrototypeLabelHead(16, ["red", "green", "blue", "grey"], refresh_every=3)
        module.encoder = from_open_clip(tiny.CONFIG, label_head=head)
        module.loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), label_weight=0.5)
    return module


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_fit_reads_nothing_between_logged_steps(name: str, tmp_path: Path) -> None:
    folder = tiny.shards(tmp_path / "shards")
    places = recorded_fit(tmp_path, module_of(name), tiny.data(folder, 4), precision="bf16-mixed")
    assert places == {}


def test_a_fit_over_three_modalities_reads_nothing_either(tmp_path: Path) -> None:
    module = tiny.module(retrieval_pairs=0)
    module.encoder = with_towers(tiny.encoder(), {"series": SeriesTower()})
    pairs = [("image", "text"), ("image", "series"), ("series", "text")]
    terms = {f"{a}_{b}": WeightedTerm(ModalityPairLoss(ContrastiveLoss(), a, b)) for a, b in pairs}
    module.loss = CombinedLoss(terms=terms)
    folder = write_series(tmp_path / "shards", (21,))
    samples = PairOptions(
        transform=OptionalImage(TrainTransform(16)),
        caption=OptionalCaption(),
        fields=[Series(on_error="absent"), CaptionMask()],
    )
    data = tiny.data(folder, 4, samples=samples)
    assert recorded_fit(tmp_path, module, data) == {}


def test_a_time_limit_is_not_read_from_a_tensor(tmp_path: Path) -> None:
    folder = tiny.shards(tmp_path / "shards")
    limit = {"max_time": "00:01:00:00"}
    assert recorded_fit(tmp_path, module_of("pairs"), tiny.data(folder, 4), **limit) == {}


def test_what_reads_is_found(tmp_path: Path) -> None:
    module = module_of("pairs")
    real = module.encoder.limit_logit_scale

    def reading() -> None:
        real()
        assert module.encoder.log_logit_scale.item() < 10
        torch.tensor(1.0, device=module.device)

    module.encoder.limit_logit_scale = reading
    places = recorded_fit(tmp_path, module, tiny.data(tiny.shards(tmp_path / "shards"), 4))
    assert sorted(place.split(":")[0] for place in places) == [
        "aten._local_scalar_dense.default", "torch.tensor",
    ]  # fmt: skip
    assert set(places.values()) == {4}


def test_pairs_whose_number_is_unknown_are_found() -> None:
    """They are looked for on the GPU; the assertion of a known number is not read there."""
    rows, mask = torch.eye(3), torch.tensor([True, False, True])
    embeddings = Embeddings(rows, rows, torch.tensor(1.0))
    batch = replace(make_batch(3), pair_mask=mask)
    unknown = recorded_reads(lambda: select_pairs(embeddings, batch))
    assert list(unknown) == ["aten.nonzero.default: clipkit/losses/contrastive.py:_selected"]
    assert recorded_reads(lambda: select_pairs(embeddings, replace(batch, num_pairs=2))) == {}


def test_the_known_functions_exist() -> None:
    for place in ON_THE_CPU:
        file, _, name = place.partition(":")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), place
