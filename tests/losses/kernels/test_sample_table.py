"""The table of a loss with a memory, in one process."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import GlobalContrastiveLoss
from clipkit.losses.kernels.sample_table import SampleTable, last_of_equal


def test_the_last_of_equal_ids_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 2, 50):
        ids = torch.randint(0, 12, (size,), generator=generator)
        expected = [max(k for k in range(size) if ids[k] == ids[i]) for i in range(size)]
        assert last_of_equal(ids).tolist() == expected


def test_columns_are_restored_under_a_condition() -> None:
    table = SampleTable(2, 6, fill=-torch.inf)
    ids = torch.tensor([5, 0])
    before = table.read(ids)
    assert before.isneginf().all()
    table.write(ids, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    table.restore(ids, before, torch.tensor(False))
    assert table.part()[0].tolist() == [2.0, *[-torch.inf] * 4, 1.0]
    table.restore(ids, before, torch.tensor(True))
    assert table.part().isneginf().all()


def test_the_part_of_another_rank_is_refused() -> None:
    state = {**GlobalContrastiveLoss(6).get_extra_state(), "rank": 1, "world_size": 2}
    with pytest.raises(ConfigError, match=r"that of rank 1 of 2 alone; save .*complete_state_dict"):
        GlobalContrastiveLoss(6).set_extra_state(state)
    with pytest.raises(ConfigError, match="the saved state of 7 of 7 samples, got that of 6"):
        GlobalContrastiveLoss(7).set_extra_state({**state, "rank": 0, "world_size": 1})
