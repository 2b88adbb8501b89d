"""The thread that writes a checkpoint: its errors are reported, and its memory is not shared."""

import threading

import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.training.checkpoints.writers import WriteInBackground


def raising(error):
    def afterwards():
        raise error

    return afterwards


@pytest.mark.parametrize(
    "error", [RuntimeError("the store is gone"), CheckpointError("half"), OSError(28, "full")]
)
def test_an_error_after_the_write_is_its_problem(error):
    writer = WriteInBackground()
    writer.give({"a": torch.ones(2)}, lambda content, group: 8)
    writer.start(raising(error))
    assert writer.wait().problem.endswith(str(error.args[-1]))


def test_the_next_content_waits_for_the_previous_write():
    writer, release, seen = WriteInBackground(), threading.Event(), []

    def write(content, group):
        release.wait(30)
        seen.append(content["a"].tolist())
        return 8

    writer.give({"a": torch.zeros(2)}, write)
    writer.start(lambda: None)
    threading.Timer(0.2, release.set).start()
    writer.give({"a": torch.ones(2)}, write)
    assert seen == [[0.0, 0.0]]
    writer.start(lambda: None)
    assert writer.wait().num_bytes == 8
    assert seen == [[0.0, 0.0], [1.0, 1.0]]
