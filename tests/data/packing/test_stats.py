"""Statistics and verification of shards from Python."""

from __future__ import annotations

import pytest

from clipkit.data import OpenClipTokenizer, collect_stats, verify_shards
from clipkit.errors import ConfigError
from tests.helpers.factories import write_shards


def test_totals_and_spreads(tmp_path):
    write_shards(tmp_path, (5, 4))
    seen = []
    tokenizer = OpenClipTokenizer(context_length=100)
    stats = collect_stats(str(tmp_path), tokenizer, 2, lambda *counts: seen.append(counts))
    summary = stats.summary()
    assert (summary["num_shards"], summary["num_samples"], summary["num_faults"]) == (2, 9, 0)
    assert seen[-1] == (9, 9)
    assert summary["image_width_pixels"]["count"] == len(stats.widths) == 9
    assert summary["caption_tokens"]["min"] == min(stats.caption_lengths)
    assert summary["caption_tokens"]["mean"] == sum(stats.caption_lengths) / 9


def test_no_threads_are_refused(tmp_path):
    write_shards(tmp_path, (2,))
    with pytest.raises(ConfigError, match="num_workers: expected at least 1, got 0"):
        verify_shards(str(tmp_path), num_workers=0)
