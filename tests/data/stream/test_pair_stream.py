"""The stream: exact, resumable, equal over topologies."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import PairStream, ShardIndex
from clipkit.data.stream.builder import BatchBuilder
from clipkit.errors import CheckpointError, ConfigError, DataError
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.fakes import ByteTokenizer, flat_stream
from tests.helpers.streams import ids, make, train, train_ranks

COUNTS = [7, 13, 5, 20, 16]
TOTAL = sum(COUNTS)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return ShardIndex.from_urls(folder)


def test_an_epoch_holds_every_sample_once_but_for_the_tail(index: ShardIndex) -> None:
    stream = make(index)
    epoch = [sample for batch in stream for sample in ids(batch)]
    assert len(epoch) == len(set(epoch)) == TOTAL // 4 * 4
    assert len(stream) == TOTAL // 4


def test_batches_have_the_promised_content(index: ShardIndex) -> None:
    batch = next(iter(make(index)))
    assert batch.images.shape == (4, 3, 8, 8)
    assert batch.images.dtype == torch.uint8
    assert batch.tokens.shape[1] == max(len(ByteTokenizer().encode(c)) for c in batch.captions)
    for key, sample_id, label, caption in zip(
        batch.keys, ids(batch), batch.labels.tolist(), batch.captions, strict=True
    ):
        assert int(key) == sample_id
        assert label == sample_id % 4
        assert caption.endswith(f"number {sample_id}")


def test_batches_know_the_sizes_of_all_ranks(index: ShardIndex) -> None:
    """Only where bad samples are replaced, and not in a step that is divided unevenly."""
    training = make(index, 4, rank=0, world_size=2)
    assert {batch.rank_sizes for batch in training} == {(4, 4)}
    kept = make(index, 4, rank=0, world_size=2, tail="keep")
    assert [batch.rank_sizes for batch in kept][-1] is None
    validation = make(index, 4, rank=0, world_size=2, shuffle=False)
    assert {batch.rank_sizes for batch in validation} == {None}


def test_the_next_epoch_is_another_permutation(index: ShardIndex) -> None:
    stream = make(index)
    first, second = list(map(ids, stream)), list(map(ids, stream))
    assert len(first) == len(second)
    assert first != second


@pytest.mark.parametrize("steps", [0, 1, 7, TOTAL // 4, TOTAL // 4 + 3])
def test_a_resume_gives_what_would_have_come(index: ShardIndex, steps: int) -> None:
    whole = train(make(index), 2 * (TOTAL // 4))
    stream = make(index)
    before = train(stream, steps)
    resumed = make(index)
    resumed.load_state_dict(stream.state_dict())
    assert before + train(resumed, len(whole) - steps) == whole


@pytest.fixture(scope="module")
def complete(index: ShardIndex) -> Callable[..., list[list[int]]]:
    """The global batches of a run that is not interrupted, made once for each topology."""
    known: dict[str, list[list[int]]] = {}

    def run(topology: tuple[int, int], steps: int, options: dict[str, Any]) -> list[list[int]]:
        key = f"{topology} {steps} {options}"
        if key not in known:
            known[key] = train_ranks(index, *topology, steps, **options)[0]
        return known[key]

    return run


LAYOUTS = [{}, {"shuffle_window": 9}, {"length_bucket_batches": 3}]


@pytest.mark.parametrize("options", LAYOUTS)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 8), (2, 4)),
        ((2, 4), (1, 8)),
        ((4, 2), (2, 4)),
        ((2, 3), (3, 2)),
        ((1, 6), (6, 1)),
    ],
)
@pytest.mark.parametrize("steps", [1, 9])
def test_another_number_of_ranks_takes_the_identical_global_batches(
    index: ShardIndex,
    first: tuple[int, int],
    second: tuple[int, int],
    steps: int,
    options: dict[str, Any],
    complete: Callable[..., list[list[int]]],
) -> None:
    total = 2 * (TOTAL // (first[0] * first[1]))
    whole = complete(first, total, options)
    before, state = train_ranks(index, *first, steps, **options)
    after, _ = train_ranks(index, *second, total - steps, state, **options)
    assert before + after == whole


@pytest.mark.parametrize("options", LAYOUTS)
@pytest.mark.parametrize("topologies", [[(1, 8), (3, 5), (2, 1)], [(3, 2), (1, 5), (2, 7)]])
def test_any_other_topology_loses_and_repeats_nothing(
    index: ShardIndex, topologies: list[tuple[int, int]], options: dict[str, Any]
) -> None:
    """What an epoch leaves out is less than one step of the last topology."""
    state, seen = None, []
    for world_size, batch_size in topologies[:-1]:
        batches, state = train_ranks(index, world_size, batch_size, 2, state, **options)
        seen += [sample for batch in batches for sample in batch]
    assert state is not None
    world_size, batch_size = topologies[-1]
    left = (TOTAL - state["position"]) // (world_size * batch_size)
    batches, state = train_ranks(index, world_size, batch_size, left, state, **options)
    seen += [sample for batch in batches for sample in batch]
    assert (state["epoch"], state["position"]) == (1, 0)
    assert len(seen) == len(set(seen)) > TOTAL - world_size * batch_size
    assert state["dropped"] == TOTAL - len(seen)


def test_what_an_epoch_skips_after_a_change_of_topology_is_counted(index: ShardIndex) -> None:
    stream = make(index, 4)
    train(stream, TOTAL // 4 - 1)
    large = make(index, 40)
    large.load_state_dict(stream.state_dict())
    # 5 samples are left, too few for a batch of 40: the next epoch begins.
    train(large, 1)
    assert large.state_dict()["epoch"] == 2
    assert large.state_dict()["dropped"] == TOTAL - (TOTAL // 4 - 1) * 4 + TOTAL - 40


def tensors(stream: PairStream) -> list[tuple[torch.Tensor, ...]]:
    return [(b.images, b.tokens, b.labels, b.sample_ids) for b in stream]  # type: ignore[misc]


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 3}, {"num_threads": 3}])
def test_the_very_tensors_do_not_depend_on_workers(
    index: ShardIndex, options: dict[str, int]
) -> None:
    plain, other = make(index), make(index, **options)
    for _ in range(2):
        for mine, theirs in zip(tensors(plain), tensors(other), strict=True):
            for a, b in zip(mine, theirs, strict=True):
                assert torch.equal(a, b)


def test_the_very_tensors_do_not_depend_on_ranks(index: ShardIndex) -> None:
    whole = [images for images, *_ in tensors(make(index, 6))]
    halves = [tensors(make(index, 3, rank=rank, world_size=2)) for rank in range(2)]
    for step, images in enumerate(whole):
        assert torch.equal(images, torch.cat([half[step][0] for half in halves]))


def test_augmentation_differs_over_epochs_and_seeds(index: ShardIndex) -> None:
    def pictures(stream: PairStream) -> dict[int, bytes]:
        return {
            i: image.numpy().tobytes()
            for batch in stream
            for i, image in zip(ids(batch), batch.images, strict=True)
        }

    stream = make(index)
    first, second, other = pictures(stream), pictures(stream), pictures(make(index, seed=4))
    assert all(first[i] != second[i] for i in first.keys() & second.keys())
    assert all(first[i] != other[i] for i in first.keys() & other.keys())


def test_iterating_leaves_torchs_random_numbers_alone(index: ShardIndex) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(make(index))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_not_committed_comes_again(index: ShardIndex, num_workers: int) -> None:
    whole = train(make(index), 20)
    stream = make(index, num_workers=num_workers)
    seen = []
    for _ in range(4):  # an exception after every fifth batch, three of them in flight
        iterator = iter(stream)
        for _ in range(2):
            batch = next(iterator)
            stream.commit(batch)
            seen.append(ids(batch))
        for _ in range(3):
            next(iterator)
    assert seen == whole[:8]


def test_an_epoch_that_ran_out_is_followed_by_the_next_one(index: ShardIndex) -> None:
    """A loop that fetches ahead reaches the end before its last batches are trained on."""
    whole = train(make(index), 20)
    stream = make(index)
    batches = list(stream)
    for batch in batches[:-2]:
        stream.commit(batch)
    assert stream.state_dict()["epoch"] == 0
    resumed = make(index)
    resumed.load_state_dict(stream.state_dict())
    for batch in batches[-2:]:
        stream.commit(batch)
    assert (stream.state_dict()["epoch"], stream.state_dict()["position"]) == (1, 0)
    assert ids(next(iter(stream))) == whole[TOTAL // 4]
    assert train(resumed, 4) == whole[TOTAL // 4 - 2 : TOTAL // 4 + 2]


def test_workers_start_with_the_first_batch(index: ShardIndex) -> None:
    """A trainer may ask for an iterator, then load a state, then set the epoch."""
    state = make(index)
    train(state, 3)
    stream = make(index, num_workers=1)
    early = iter(stream)
    stream.load_state_dict(state.state_dict())
    stream.set_epoch(0)
    assert ids(next(early)) == train(make(index), 4)[3]


def test_set_epoch(index: ShardIndex) -> None:
    whole = train(make(index), 60)
    per_epoch = TOTAL // 4
    stream = make(index)
    stream.set_epoch(2)
    assert train(stream, 2) == whole[2 * per_epoch :][:2]
    stream.set_epoch(2)
    assert train(stream, 1) == whole[2 * per_epoch + 2 :][:1]
    stream.set_epoch(1)
    assert train(stream, 1) == whole[per_epoch:][:1]


def test_len_is_that_of_a_whole_epoch_wherever_the_stream_stands(index: ShardIndex) -> None:
    stream = make(index)
    train(stream, 7)
    resumed = make(index)
    resumed.load_state_dict(stream.state_dict())
    assert len(resumed) == len(stream) == TOTAL // 4
    assert len(list(resumed)) == TOTAL // 4 - 7


def test_a_state_is_plain_and_loads_without_pickles_powers(index: ShardIndex) -> None:
    stream = make(index)
    train(stream, 3)
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == stream.state_dict()


def test_resuming_twice_from_one_state(index: ShardIndex) -> None:
    stream = make(index)
    train(stream, 5)
    state = stream.state_dict()
    runs = []
    for _ in range(2):
        resumed = make(index)
        resumed.load_state_dict(state)
        runs.append(train(resumed, 10))
    assert runs[0] == runs[1]


def test_a_states_layout_and_seed_win(index: ShardIndex, caplog: pytest.LogCaptureFixture) -> None:
    whole = train(make(index, shuffle_window=9), 10)
    stream = make(index, shuffle_window=9)
    train(stream, 4)
    resumed = make(index, seed=99)
    resumed.load_state_dict(stream.state_dict())
    assert train(resumed, 6) == whole[4:]
    assert "seed: using 3 from the checkpoint, ignoring 99" in caplog.text


def test_a_state_of_other_data_is_refused(index: ShardIndex, tmp_path: Path) -> None:
    write_shards(tmp_path, [9, 9])
    other = make(ShardIndex.from_urls(tmp_path))
    with pytest.raises(CheckpointError, match=r"61 samples.*now 18 samples"):
        other.load_state_dict(make(index).state_dict())
    with pytest.raises(CheckpointError, match="expected version 1 or 2, got 7"):
        other.load_state_dict({"version": 7})
    state = make(index).state_dict()
    del state["seed"]
    with pytest.raises(CheckpointError, match="incomplete, seed missing"):
        other.load_state_dict(state)
    with pytest.raises(CheckpointError, match="shuffle=False"):
        make(index, shuffle=False).load_state_dict(make(index).state_dict())


def test_a_state_of_the_same_samples_in_another_order_is_refused(tmp_path: Path) -> None:
    """Shards of equal names, counts and sizes: 12 of 40 samples came twice."""
    samples = [(f"{i:03d}", {"jpg": pair(0)["jpg"], "txt": b"%03d" % i}) for i in range(8)]
    write_shard(tmp_path / "a" / "0.tar", samples)
    write_shard(tmp_path / "b" / "0.tar", samples[::-1])
    first, second = (ShardIndex.from_urls(tmp_path / name) for name in "ab")
    assert first.fingerprint == second.fingerprint
    state = make(first).state_dict()
    with pytest.raises(CheckpointError, match="contain other samples or another order"):
        make(second).load_state_dict(state)
    make(first).load_state_dict(state)


def test_a_state_without_a_digest_loads_and_says_so(
    index: ShardIndex, caplog: pytest.LogCaptureFixture
) -> None:
    state = make(index).state_dict()
    make(index).load_state_dict(state)
    assert not caplog.text
    make(index).load_state_dict({**state, "digest": ""})
    assert "known by number only" in caplog.text
    del state["digest"]
    make(index).load_state_dict(state)
    assert "written by an older clipkit, without a digest" in caplog.text


def test_an_old_iteration_cannot_go_on(index: ShardIndex) -> None:
    stream = make(index)
    old = iter(stream)
    next(old)
    next(iter(stream))
    with pytest.raises(ConfigError, match="a newer iteration has begun"):
        next(old)


def test_commit_wants_a_batch_of_a_stream(index: ShardIndex) -> None:
    stream = make(index)
    batch = next(iter(stream))
    stream.commit(batch.to("cpu"))
    batch.cursor = None
    with pytest.raises(ConfigError, match="without a cursor"):
        stream.commit(batch)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_counts_every_sample_once(index: ShardIndex, world_size: int) -> None:
    streams = [
        make(index, 5, shuffle=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for _ in range(2):
        seen = [[ids(batch) for batch in stream] for stream in streams]
        assert [len(batches) for batches in seen] == [len(stream) for stream in streams]
        flat = [i for batches in seen for batch in batches for i in batch]
        assert sorted(flat) == list(range(TOTAL))


def test_evaluation_is_the_same_every_time(index: ShardIndex) -> None:
    stream = make(index, shuffle=False)
    for first, second in zip(tensors(stream), tensors(stream), strict=True):
        assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("world_size", [2, 3, 4, 7])
@pytest.mark.parametrize("batch_size", [1, 5, 20, 61])
@pytest.mark.parametrize("ahead", [False, True])
def test_ranks_that_keep_the_tail_agree_on_the_state(
    index: ShardIndex, world_size: int, batch_size: int, ahead: bool
) -> None:
    """A rank that has none of an epoch's last samples is at its end like the others."""
    streams = [
        make(index, batch_size, tail="keep", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for epoch in (1, 2):
        for stream in streams:
            for batch in list(stream) if ahead else stream:
                stream.commit(batch)
        states = [stream.state_dict() for stream in streams]
        assert all(state == states[0] for state in states)
        assert (states[0]["epoch"], states[0]["position"]) == (epoch, 0)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_resume_at_the_kept_tail_is_alike_on_all_ranks(index: ShardIndex, steps: int) -> None:
    """61 samples in steps of 20 leave one, which rank 0 has."""
    whole = [train(make(index, 5, tail="keep", rank=r, world_size=4), 6) for r in range(4)]
    streams = [make(index, 5, tail="keep", rank=r, world_size=4) for r in range(4)]
    before = [train(stream, steps) for stream in streams]
    states = [stream.state_dict() for stream in streams]
    assert all(state == states[0] for state in states)
    resumed = [make(index, 5, tail="keep", rank=r, world_size=4) for r in range(4)]
    for stream in resumed:
        stream.load_state_dict(states[0])
    first = [[ids(batch) for batch in stream] for stream in resumed]
    assert [len(batches) for batches in first] == [4 - steps, 3 - steps, 3 - steps, 3 - steps]
    assert [b + f for b, f in zip(before, first, strict=True)] == [
        batches[: 4 if rank == 0 else 3] for rank, batches in enumerate(whole)
    ]


def test_a_rank_whose_last_batch_is_bad_agrees_on_the_state(tmp_path: Path) -> None:
    samples = [(f"{i}", pair(i)) for i in range(4)]
    for key in (2, 3):
        samples[key] = (f"{key}", {**pair(key), "jpg": b"broken"})
    write_shard(tmp_path / "0.tar", samples)
    index = ShardIndex.from_urls(tmp_path)
    places = []
    for rank in range(2):
        stream = make(index, 1, shuffle=False, rank=rank, world_size=2, max_bad_fraction=1.0)
        for batch in stream:
            stream.commit(batch)
        places.append((stream.state_dict()["epoch"], stream.state_dict()["position"]))
    assert places == [(1, 0), (1, 0)]


def test_padding_fills_the_last_step_and_is_counted(index: ShardIndex) -> None:
    batches, state = train_ranks(index, 1, 8, 8, tail="pad")
    flat = [i for batch in batches for i in batch]
    assert {len(batch) for batch in batches} == {8}
    assert set(flat) == set(range(TOTAL))
    assert flat[TOTAL:] == flat[: 64 - TOTAL]
    assert state["padded"] == 64 - TOTAL
    assert (state["epoch"], state["dropped"]) == (1, 0)


def test_a_small_evaluation_set_pads_over_ranks(tmp_path: Path) -> None:
    write_shards(tmp_path, [3])
    index = ShardIndex.from_urls(tmp_path)
    seen = [
        [ids(b) for b in make(index, 2, shuffle=False, tail="pad", rank=rank, world_size=4)]
        for rank in range(4)
    ]
    assert seen == [[[0, 1]], [[2, 0]], [[1, 2]], [[0, 1]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 62}, "expected at most the 61 samples of the data, got 62"),
        ({"batch_size": 0}, "expected at least 1, got 0"),
        ({"batch_size": 31, "rank": 0, "world_size": 2}, "2 ranks of 31 samples need 62 per step"),
        ({"rank": 0}, "expected both or none"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"tail": "cut"}, "tail: expected drop or pad or keep or even, got 'cut'"),
        ({"shuffle_window": 0}, "shuffle_window: expected at least 1"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"num_workers": -1}, "num_workers: expected at least 0"),
        ({"num_threads": 0}, "num_threads: expected at least 1"),
        ({"max_bad_fraction": 5}, "max_bad_fraction: expected 0 to 1"),
        ({"max_bad_shards": -1}, "max_bad_shards: expected at least 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused_at_once(
    index: ShardIndex, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make(index, **options)


def test_members_that_no_sample_has_are_named_before_training(tmp_path: Path) -> None:
    for name, member in [("images", "txt"), ("texts", "jpg")]:
        samples = [(f"{i}", {member: pair(i)[member]}) for i in range(9)]
        write_shard(tmp_path / name / "0.tar", samples)
    with pytest.raises(DataError, match=r"no image: expected a member .jpg.*; got txt"):
        make(ShardIndex.from_urls(tmp_path / "images"))
    with pytest.raises(DataError, match=r"no caption: expected a member .txt; got jpg"):
        make(ShardIndex.from_urls(tmp_path / "texts"))


def test_labels_may_come_from_json_or_be_absent(index: ShardIndex, tmp_path: Path) -> None:
    batch = next(iter(make(index, shuffle=False, label_field="json:number")))
    assert batch.labels.tolist() == ids(batch)
    write_shards(tmp_path, [5], label=False)
    batch = next(iter(make(ShardIndex.from_urls(tmp_path))))
    assert batch.labels.tolist() == [-100] * 4


def test_the_defaults_crop_at_random_or_cut_the_middle(index: ShardIndex) -> None:
    for shuffle in (True, False):
        stream = flat_stream(
            index, tokenizer=ByteTokenizer(), batch_size=4, image_size=16, shuffle=shuffle
        )
        first, again = next(iter(stream)), next(iter(stream))
        assert first.images.shape == (4, 3, 16, 16)
        assert torch.equal(first.images, again.images)
        assert first.captions[0].endswith(f"number {ids(first)[0]}")


def test_workers_may_be_spawned(index: ShardIndex) -> None:
    """What a worker holds can be pickled, and builds the same batch from its copy."""
    stream = make(index)
    expected = next(iter(stream))
    builder = BatchBuilder(stream._reader, stream._maker, stream._order, num_threads=2)
    task = next(stream._partition.tasks(0, 0))
    builder.build(task)
    built = pickle.loads(pickle.dumps(builder)).build(task)
    assert built.batch is not None
    assert torch.equal(built.batch.images, expected.images)


def test_images_are_pinned_where_a_gpu_is_in_use(index: ShardIndex) -> None:
    batch = next(iter(make(index, num_workers=1)))
    assert batch.images.is_pinned() == torch.cuda.is_initialized()


def test_even_steps_refuse_fewer_samples_than_ranks(tmp_path: Path) -> None:
    write_shards(tmp_path, [3])
    few = ShardIndex.from_urls(tmp_path)
    with pytest.raises(ConfigError, match="each of the 4 ranks, got 3"):
        make(few, 2, shuffle=False, tail="even", rank=0, world_size=4)


def test_even_steps_end_where_a_rank_would_have_no_batch(tmp_path: Path) -> None:
    """The other ranks would wait for it in the exchange of the step."""
    samples = [(f"{i:03d}", pair(i)) for i in range(40)]
    samples[1] = ("001", {**pair(1), "jpg": b"broken"})
    write_shard(tmp_path / "0.tar", samples)
    broken = ShardIndex.from_urls(tmp_path)
    options: dict[str, Any] = {"shuffle": False, "tail": "even", "max_bad_fraction": 0.5}
    with pytest.raises(DataError, match=r"rank 1 can be used.*001"):
        list(make(broken, 1, rank=1, world_size=2, **options))
    left = [key for batch in make(broken, 1, **options) for key in batch.keys]
    assert len(left) == 39
