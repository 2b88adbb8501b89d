"""Errors of one rank reach all ranks, and a rank that is lost ends the others."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from clipkit.distributed.agreement import of_first_rank, on_all_ranks, same_errors
from clipkit.distributed.collectives import rank as collective_rank
from clipkit.distributed.collectives import sum_over_ranks
from clipkit.distributed.process_group import _ended_by_sigterm, process_group
from clipkit.errors import ConfigError, DataError, RankLostError
from clipkit.evaluation import EmbedOptions, Retrieval
from tests.helpers.evaluation_data import picture, tiny_encoder, write_layout
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks


def message_of(action) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def fail_on(number: int, rank: int) -> None:
    with same_errors():
        if rank == number:
            raise DataError("x.tar: torn")


def first_value(rank: int, fails: bool) -> str:
    def action() -> str:
        if fails:
            raise OSError(28, "No space left on device")
        return f"of rank {rank}"

    return of_first_rank(action)


def fail_on_rank_1() -> None:
    if collective_rank() == 1:
        raise ValueError("odd")


def attempts(rank: int, world_size: int, broken: str):
    agreed = message_of(lambda: on_all_ranks(fail_on_rank_1))
    no_error = message_of(lambda: fail_on(7, rank))
    shared = message_of(lambda: fail_on(1, rank))
    full_disk = message_of(lambda: first_value(rank, True))
    evaluator = Retrieval(broken, options=EmbedOptions(batch_size=2))
    decoding = message_of(lambda: evaluator.run(tiny_encoder()))
    total = float(sum_over_ranks(torch.tensor(float(rank))))  # still in step
    return no_error, shared, full_disk, first_value(rank, False), decoding, total, agreed


def test_an_error_of_one_rank_is_raised_on_all(tmp_path):
    root = write_layout(tmp_path / "set", (4,))
    samples = [(f"s{i}", {"jpg": b"no image" if i == 3 else b"", "txt": b"x"}) for i in range(4)]
    good = [(key, {"jpg": picture(0, "jpg"), "txt": b"x"}) for key, _ in samples[:3]]
    write_shard(root / "test" / "0.tar", [*good, samples[3]])

    first, second = run_ranks(attempts, 2, str(root))

    assert first[0] == second[0] == ""
    assert first[1] == "ClipkitError: rank 1: x.tar: torn"
    assert second[1] == "DataError: x.tar: torn"
    assert "No space left" in first[2]
    assert second[2].startswith("ClipkitError: rank 0: ")
    assert first[3] == second[3] == "of rank 0"
    assert "s3" in second[4]
    assert first[4] == f"ClipkitError: rank 1: {second[4].partition(': ')[2]}"
    assert first[5] == second[5] == 1.0
    assert first[6] == second[6] == "OSError: ValueError: odd"


def lose_a_rank(rank: int, world_size: int):
    if rank == 1:
        time.sleep(0.2)
        os._exit(1)

    def wait() -> None:
        with same_errors():
            pass

    return message_of(wait)


def test_a_rank_that_ended_is_reported():
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the queue of the lost rank is empty)
        run_ranks(lose_and_tell, 2, timeout_seconds=20)
    assert "RankLostError: another rank ended" in str(caught.value)


def lose_and_tell(rank: int, world_size: int):
    raise AssertionError(lose_a_rank(rank, world_size))


def test_one_process_needs_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with process_group("cpu") as device:
        assert device == "cpu"
        assert not torch.distributed.is_initialized()
    with pytest.raises(DataError, match="torn"), same_errors():
        raise DataError("torn")


def test_ranks_without_an_address_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR and MASTER_PORT for 2 ranks"):
        process_group("cpu").__enter__()


def test_sigterm_has_a_message():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RankLostError, match="received SIGTERM"), _ended_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    settings = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    for name, value in {**settings, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"one rank per GPU, got rank 1 .* with 1 GPUs"):
        process_group("auto").__enter__()
