"""Token ids against the libraries that defined them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from random import Random

import pytest
import torch

from clipkit.data.text.clip_bpe import clip_bpe
from clipkit.data.text.tokenizers import (
    OpenClipTokenizer,
    TiktokenTokenizer,
    TransformersTokenizer,
    tokenizer_from_name,
)
from clipkit.errors import ConfigError
from tests.helpers.captions import CAPTIONS

PIECES = [
    "'s",
    "'T",
    "'RE",
    "'ve",
    "'ſ",
    "'ll",
    "<start_of_text>",
    "<End_of_text>",
    "<ſtart_of_text>",
]
PIECES += ["&amp;", "&lt;", "\u0345", "ᾼ", "İ", "K", "Ⅷ", "\u180e", "\x1c", "\x85", "ﬁ", "“"]


def cut_padding(row: torch.Tensor, pad_id: int) -> list[int]:
    ids = row.tolist()
    while ids and ids[-1] == pad_id:
        ids.pop()
    return ids


@pytest.mark.parametrize("model", ["ViT-B-32", "PE-Core-B-16", "coca_ViT-B-32"])
def test_clip_ids_equal_open_clips(model: str) -> None:
    import open_clip

    ours, theirs = OpenClipTokenizer(model), open_clip.get_tokenizer(model)
    assert ours.context_length == theirs.context_length
    assert ours.vocab_size == theirs.vocab_size == 49408
    for caption, row in zip(CAPTIONS, theirs(CAPTIONS), strict=True):
        assert ours.encode(caption) == cut_padding(row, 0), caption


def random_caption(random: Random) -> str:
    """Words, contractions in any case, single characters out of all of Unicode."""
    parts = []
    for _ in range(random.randint(1, 12)):
        kind = random.randrange(6)
        if kind < 3:
            letters = random.choices("etaoinshrdlcumwfgypbvkjxqz", k=random.randint(1, 11))
            parts.append("".join(letters).capitalize() if kind == 1 else "".join(letters))
        elif kind == 3:
            parts.append("".join(chr(random.randrange(0x20, 0x7F)) for _ in range(5)))
        elif kind == 4:
            parts.append(random.choice(PIECES))
        else:
            limit = random.choice((0x250, 0x3000, 0xD800, 0x30000))
            codes = (random.randrange(0x80, limit) for _ in range(random.randint(1, 4)))
            parts.append("".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000))
    return random.choice(("", " ", " ")).join(parts)


def test_random_captions_give_open_clips_ids() -> None:
    """``CLIPKIT_FUZZ=50`` compares 100,000."""
    from open_clip.tokenizer import SimpleTokenizer

    reference, random = SimpleTokenizer(), Random(0)
    for _ in range(2_000 * int(os.environ.get("CLIPKIT_FUZZ", "1"))):
        caption = random_caption(random)
        assert clip_bpe().encode(caption) == reference.encode(caption), caption


def test_cut_captions_keep_their_end() -> None:
    tokenizer = OpenClipTokenizer("ViT-B-32", context_length=8)
    ids = tokenizer.encode("one two three four five six seven eight nine")
    assert len(ids) == 8
    assert (ids[0], ids[-1]) == (49406, 49407)


def test_batches_are_as_long_as_their_longest_caption() -> None:
    tokenizer = OpenClipTokenizer()
    tokens = tokenizer(["a dog", "a very small dog"])
    assert tokens.shape == (2, 6)
    assert tokens.dtype == torch.int64
    assert tokens[0].tolist() == [49406, 320, 1929, 49407, 0, 0]
    assert torch.equal(tokens[:1, :4], tokenizer("a dog"))
    assert tokenizer.pad([]).shape == (0, 0)


def test_a_json_configuration_and_its_folder(tmp_path: Path) -> None:
    config = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {"context_length": 24}}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    for model in (str(tmp_path / "tiny.json"), str(tmp_path), f"local-dir:{tmp_path}"):
        tokenizer = tokenizer_from_name(f"open_clip:{model}")
        assert tokenizer.context_length == 24
        assert tokenizer.name == f"open_clip:{model}"
        assert tokenizer.encode("a dog") == [49406, 320, 1929, 49407]


@pytest.mark.parametrize("strip", [False, True])
def test_hugging_face_models_of_open_clip(bert_folder: Path, tmp_path: Path, strip: bool) -> None:
    from open_clip.tokenizer import HFTokenizer

    text = {
        "context_length": 7,
        "hf_tokenizer_name": str(bert_folder),
        "tokenizer_kwargs": {"strip_sep_token": strip, "clean": "canonicalize"},
    }
    path = tmp_path / "bert.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}))
    ours = OpenClipTokenizer(str(path))
    theirs = HFTokenizer(str(bert_folder), 7, clean="canonicalize", strip_sep_token=strip)
    captions = ["a red_square!", "Squares", "a dog of red blue squares of a dog", ""]
    for caption, row in zip(captions, theirs(captions), strict=True):
        assert ours.encode(caption) == cut_padding(row, 0)
    assert ours.pad_id == 0
    assert ours.vocab_size == 11


def test_transformers_tokenizer(bert_folder: Path) -> None:
    tokenizer = tokenizer_from_name(f"transformers:{bert_folder}")
    assert isinstance(tokenizer, TransformersTokenizer)
    assert tokenizer.context_length == 12
    assert tokenizer.encode("A red dog") == [2, 4, 5, 8, 3]
    short = TransformersTokenizer(str(bert_folder), context_length=4)
    assert short.encode("a red dog of squares") == [2, 4, 5, 3]
    assert short(["a", "a red"]).tolist() == [[2, 4, 3, 0], [2, 4, 5, 3]]


def test_tiktoken_ids_lie_above_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    bytes_only = tiktoken.Encoding(
        "cl100k_base",
        pat_str=r"\S+|\s+",
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: bytes_only)
    tokenizer = tokenizer_from_name("tiktoken:cl100k_base", context_length=5)
    assert isinstance(tokenizer, TiktokenTokenizer)
    assert tokenizer.encode("ab") == [258, 97, 98, 256]
    assert tokenizer.encode("abcdef") == [258, 97, 98, 99, 256]
    assert tokenizer.vocab_size == 259
    assert tokenizer(["a", "ab"]).tolist() == [[258, 97, 256, 257], [258, 97, 98, 256]]


def test_a_worker_gets_an_equal_tokenizer() -> None:
    tokenizer = OpenClipTokenizer("ViT-B-32", context_length=16)
    tokenizer.encode("fill the cache of words")
    data = pickle.dumps(tokenizer)
    assert len(data) < 10_000
    assert pickle.loads(data).encode(CAPTIONS[0]) == tokenizer.encode(CAPTIONS[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("open_clip:ViT-B-23", "did you mean .*ViT-B-32"),
        ("ViT-B-32", "did you mean open_clip:ViT-B-32"),
        ("bpe:whatever", "expected open_clip:MODEL, transformers:PATH or tiktoken:ENCODING"),
        ("tiktoken:nonsense", "unknown encoding 'nonsense'"),
        ("transformers:/nowhere/at/all", "tokenizer of transformers:/nowhere/at/all"),
    ],
)
def test_unknown_names_say_what_to_do(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        tokenizer_from_name(name)


def test_bad_configurations_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"bad\.json: expected JSON"):
        OpenClipTokenizer(str(path))
    path.write_text('{"embed_dim": 4}')
    with pytest.raises(ConfigError, match=r"text_cfg.*embed_dim"):
        OpenClipTokenizer(str(path))
    path.write_text('{"text_cfg": {"tokenizer_kwargs": {"reduction_mask": "random"}}}')
    with pytest.raises(ConfigError, match="reduction_mask"):
        OpenClipTokenizer(str(path))
    with pytest.raises(ConfigError, match="at least 3"):
        OpenClipTokenizer("ViT-B-32", context_length=2)


def test_a_tokenizer_that_is_not_on_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "gone.json"
    path.write_text(json.dumps({"text_cfg": {"hf_tokenizer_name": str(tmp_path / "gone")}}))
    with pytest.raises(ConfigError, match="name a local folder"):
        OpenClipTokenizer(str(path))
