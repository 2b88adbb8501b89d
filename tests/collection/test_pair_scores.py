from __future__ import annotations

import numpy as np
import pytest

from clipkit.collection import Collection, pair_scores
from clipkit.errors import DataError
from tests.helpers.collections import set_errors, write_collection


def test_scores_are_those_of_a_loop(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(5, 3), captions_per_image=3))
    for files in collection.shards:
        images, texts = files.images().astype(np.float64), files.texts().astype(np.float64)
        wanted = [images[number // 3] @ text for number, text in enumerate(texts)]
        assert pair_scores(files) == pytest.approx(wanted, abs=1e-6)


def test_samples_without_an_embedding_have_no_score(tmp_path):
    folder = write_collection(tmp_path, counts=(5, 3), captions_per_image=2)
    set_errors(folder, "00001", {1})
    collection = Collection(folder)
    assert (
        np.isnan(pair_scores(collection.shards[1])).tolist()
        == [False] * 2 + [True] * 2 + [False] * 2
    )
    assert np.flatnonzero(~collection.embedded_rows()).tolist() == [6]


def test_captions_that_were_not_embedded_are_named(tmp_path):
    folder = write_collection(tmp_path / "images", captions_per_image=0)
    with pytest.raises(DataError, match=r"00000\.texts\.f16\.npy: cannot be read"):
        pair_scores(Collection(folder).shards[0])
    folder = write_collection(tmp_path / "fewer", captions_per_image=2)
    np.save(folder / "00000.texts.f16.npy", np.zeros((9, 8), dtype=np.float16))
    with pytest.raises(DataError, match=r"00000: expected 10 embedded captions.*got 9"):
        pair_scores(Collection(folder).shards[0])
