"""Classes as sentences that the text tower reads."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clipkit.data.text.tokenizers import OpenClipTokenizer
from clipkit.errors import ConfigError
from clipkit.losses import MicroBatchedEncoder
from clipkit.models import PrototypeLabelHead, load_encoder
from clipkit.models.checkpoints.encoder import save_encoder
from clipkit.optim import EmaWeights
from clipkit.types import Batch
from tests.helpers import tiny

NAMES, TEMPLATES = ["cat", "dog", "old horse"], ["{c}", "a photo of a {c}"]
TOKENIZER = OpenClipTokenizer(context_length=16)


def encoder(**options):
    result = tiny.encoder()
    result.label_head = PrototypeLabelHead(16, NAMES, TEMPLATES, scale=5.0, **options)
    result.label_head.read_texts(TOKENIZER)
    return result


def batch(size=6):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randint(0, 256, (size, 3, 16, 16), generator=generator, dtype=torch.uint8),
        TOKENIZER(["a red cat", "two dogs", "a horse"] * (size // 3)),
        torch.tensor([0, 1, 2] * (size // 3)),
        tuple(map(str, range(size))),
    )


def by_hand(encoder, images):
    """Scores as a loop over pictures, classes and sentences."""
    features = encoder.image_tower(encoder.normalize(images))
    rows = []
    for feature in features:
        row = []
        for name in NAMES:
            sentences = [template.replace("{c}", name) for template in TEMPLATES]
            texts = [encoder.text_tower(TOKENIZER(sentence))[0] for sentence in sentences]
            mean = torch.stack([F.normalize(text, dim=0) for text in texts]).mean(0)
            row.append(5.0 * F.cosine_similarity(feature, mean, dim=0))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_scores_and_gradients_are_those_of_the_loop():
    model, data = encoder(), batch()
    names = [name for name, _ in model.text_tower.named_parameters()]

    def gradients(logits):
        model.zero_grad()
        F.cross_entropy(logits, data.labels).backward()
        return [model.text_tower.get_parameter(name).grad for name in names]

    expected = by_hand(model, data.images)
    wanted = gradients(expected)
    got = model(data).label_logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for name, one, other in zip(names, gradients(got), wanted, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6, msg=name)
    assert float(model.text_tower.get_parameter(names[0]).grad.abs().max()) > 0


def test_the_scale_is_the_heads_own():
    model, data = encoder(), batch()
    F.cross_entropy(model(data).label_logits, data.labels).backward()
    assert model.log_logit_scale.grad is None
    assert float(model.label_head.log_scale.grad.abs()) > 0
    assert model.label_head.log_scale.item() == pytest.approx(math.log(5))


def change(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.text_tower.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def test_refreshed_prototypes_are_constants_in_between():
    model, data = encoder(refresh_every=2), batch()
    head, seen = model.label_head, []
    for step in range(5):
        model.zero_grad()
        logits = model(data).label_logits
        F.cross_entropy(logits, data.labels).backward()
        assert all(p.grad is None for p in model.text_tower.parameters())
        seen.append(head.prototypes.clone())
        change(model, step)
    kept = [torch.equal(one, other) for one, other in pairwise(seen)]
    assert kept == [True, False, True, False]


def test_evaluation_asks_the_present_tower():
    model, data = encoder(refresh_every=100), batch()
    model(data)
    change(model, 0)
    model.eval()
    with torch.no_grad():
        first = model.classify(data.images)
        torch.testing.assert_close(first, by_hand(model, data.images), rtol=1e-4, atol=1e-5)
        calls = []
        model.text_tower.register_forward_hook(lambda *_: calls.append(1))
        assert torch.equal(model.classify(data.images), first)
        assert calls == []  # nothing has changed
        change(model, 1)
        assert not torch.equal(model.classify(data.images), first)
        assert calls == [1]


def test_an_average_of_the_weights_has_its_own_prototypes():
    model, data = encoder(), batch()
    average = EmaWeights(model, 0.9)
    change(model, 0)
    model.eval()
    with torch.no_grad():
        own = model.classify(data.images)
        with average.swapped_into(model):
            inside = model.classify(data.images)
            torch.testing.assert_close(inside, by_hand(model, data.images), rtol=1e-4, atol=1e-5)
        assert torch.equal(model.classify(data.images), own)
    assert not torch.allclose(own, inside)


@pytest.mark.parametrize("refresh_every", [None, 2])
def test_micro_batches_read_the_classes_once_a_step(refresh_every):
    model, data = encoder(refresh_every=refresh_every), batch(12)
    twin = copy.deepcopy(model)
    lengths = []
    model.text_tower.register_forward_hook(lambda _, inputs, __: lengths.append(len(inputs[0])))
    for step in range(3):
        got, expected = MicroBatchedEncoder(model, 4)(data), twin(data)
        torch.testing.assert_close(got.label_logits, expected.label_logits)
        for result, one in ((got, model), (expected, twin)):
            one.zero_grad()
            F.cross_entropy(result.label_logits, data.labels).backward()
            change(one, step)
    torch.testing.assert_close(
        [p.grad for p in model.image_tower.parameters()],
        [p.grad for p in twin.image_tower.parameters()],
        rtol=1e-4,
        atol=1e-6,
    )
    assert lengths.count(len(NAMES) * len(TEMPLATES)) == (3 if refresh_every is None else 2)


def test_a_saved_encoder_knows_its_sentences(tmp_path):
    model, data = encoder(), batch()
    save_encoder(model.eval(), tmp_path)
    again = load_encoder(tmp_path)
    assert again.label_head.config() == model.label_head.config()
    with torch.no_grad():
        assert torch.equal(again.classify(data.images), model.classify(data.images))


def test_names_come_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n\n")
    assert PrototypeLabelHead(4, str(path)).class_names == ["cat", "dog"]
    path.write_text("cat\n\ndog\n")  # the dog is class 2, not class 1
    with pytest.raises(ConfigError, match="class 1 has no name"):
        PrototypeLabelHead(4, str(path))
    with pytest.raises(ConfigError, match="cannot read"):
        PrototypeLabelHead(4, str(tmp_path / "none.txt"))


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="num_classes"):
        PrototypeLabelHead(4, [])
    with pytest.raises(ConfigError, match="templates"):
        PrototypeLabelHead(4, NAMES, ["a photo of"])
    with pytest.raises(ConfigError, match="scale"):
        PrototypeLabelHead(4, NAMES, scale=0.0)
    with pytest.raises(ConfigError, match="refresh_every"):
        PrototypeLabelHead(4, NAMES, refresh_every=0)
    model = tiny.encoder()
    model.label_head = PrototypeLabelHead(16, NAMES)
    with pytest.raises(ConfigError, match="read_texts"):
        model(batch())


class Reads(TorchDispatchMode):
    """Counts numbers that the CPU reads from tensors, for which it waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_count_of_steps_is_read_once_and_follows_checkpoints():
    head = PrototypeLabelHead(4, ["red", "blue"], refresh_every=3)
    head.read_texts(lambda texts: torch.ones(len(texts), 2, dtype=torch.int64))
    refreshed = []

    def tower(tokens):
        refreshed.append(int(head.num_steps))
        return torch.ones(len(tokens), 4)

    def step(count):
        for _ in range(count):
            head.score(torch.ones(1, 4), tower)

    step(1)
    with Reads() as reads:
        step(1)
    assert reads.count == 0
    step(3)
    assert refreshed == [0, 3]
    state = {name: value.clone() for name, value in head.state_dict().items()}
    state["num_steps"] -= 1  # a step that was skipped
    head.load_state_dict(state)
    step(3)
    assert refreshed == [0, 3, 6]
    assert int(head.num_steps) == 7


def test_a_pass_with_other_buffers_is_not_a_step():
    """As in the preflight: the head refreshes when its own steps call for it."""
    model, data = encoder(refresh_every=2), batch()
    head, seen = model.label_head, []
    for step in range(4):
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        torch.func.functional_call(model, buffers, (data,))
        assert int(head.num_steps) == step
        model(data)
        seen.append(head.prototypes.clone())
        change(model, step)
    assert [torch.equal(one, other) for one, other in pairwise(seen)] == [True, False, True]
    assert seen[0].any()


def test_a_step_that_is_left_out_is_followed():
    """Its refresh is repeated as soon as the CPU knows, or by whoever continues from the state."""
    head = PrototypeLabelHead(4, ["red", "blue"], refresh_every=5)
    head.read_texts(lambda texts: torch.ones(len(texts), 2, dtype=torch.int64))
    refreshed = []

    def tower(tokens):
        refreshed.append(int(head.num_steps))
        return torch.ones(len(tokens), 4)

    def step():
        head.score(torch.ones(1, 4), tower)
        return int(head.num_steps)

    def leave_out():
        head.num_steps -= 1  # restored in place, on the device

    assert [step() for _ in range(3)] == [1, 2, 3]
    leave_out()  # the pass was that of no refresh
    head.leave_out()
    assert [step() for _ in range(3)] == [3, 4, 5]
    assert refreshed == [0]
    assert step() == 6
    leave_out()
    assert [step() for _ in range(2)] == [5, 5]  # due, and the CPU does not know
    assert refreshed == [0, 5]
    state = {name: value.clone() for name, value in head.state_dict().items()}
    head.leave_out()
    assert step() == 6
    assert refreshed == [0, 5, 5]
    again = PrototypeLabelHead(4, ["red", "blue"], refresh_every=5, num_tokens=2)
    again.load_state_dict(state)
    again.score(torch.ones(1, 4), tower)
    assert len(refreshed) == 4
    assert int(again.num_steps) == 6
