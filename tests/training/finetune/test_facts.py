"""What fine-tuning finds in its data."""

from __future__ import annotations

from clipkit.training.finetune.facts import inspect_data
from tests.data.packing.test_hub import ADDRESS, PARQUET_BRANCH, hub_parquet


def test_a_data_set_of_the_hub_is_pinned(hub):
    files = {"default/train/0000.parquet": hub_parquet(["a", "b"])}
    commit = hub.data_set("owner/cats").commit(files, PARQUET_BRANCH)
    data = inspect_data(ADDRESS, ADDRESS)
    assert data.train == data.val == f"{ADDRESS}@{commit}/default/train"
    assert (data.num_samples, data.has_captions) == (2, True)
