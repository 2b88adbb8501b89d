"""Tokenizers of open_clip and transformers, given to a stream as objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clipkit.data import OpenClipTokenizer, PairStream, ShardIndex, TransformersTokenizer
from clipkit.data.text.tokenizer_objects import as_encoder
from clipkit.errors import ConfigError
from tests.helpers.captions import CAPTIONS
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer


def test_a_stream_takes_open_clips_tokenizer(tmp_path: Path) -> None:
    import open_clip

    write_shards(tmp_path, [8])
    index = ShardIndex.from_urls(tmp_path)
    batches = []
    for tokenizer in (open_clip.get_tokenizer("ViT-B-32"), OpenClipTokenizer()):
        stream = PairStream(index, tokenizer=tokenizer, batch_size=4, image_size=16, num_workers=1)
        batches.append(list(stream))
    for theirs, ours in zip(*batches, strict=True):
        assert torch.equal(theirs.tokens, ours.tokens)


@pytest.mark.parametrize("length", [8, 77])
def test_ids_equal_those_of_open_clip_tokenizer(length: int) -> None:
    import open_clip

    theirs = as_encoder(open_clip.get_tokenizer("ViT-B-32", context_length=length))
    ours = OpenClipTokenizer(context_length=length)
    assert theirs.pad_id == ours.pad_id
    for caption in CAPTIONS:
        assert theirs.encode(caption) == ours.encode(caption), caption


@pytest.mark.parametrize("strip", [False, True])
def test_open_clips_wrapper_of_transformers(
    bert_folder: Path,
    tmp_path: Path,
    strip: bool,
) -> None:
    from open_clip.tokenizer import HFTokenizer

    options = {"strip_sep_token": strip, "clean": "canonicalize"}
    text = {"context_length": 7, "hf_tokenizer_name": str(bert_folder), "tokenizer_kwargs": options}
    path = tmp_path / "bert.json"
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}))
    theirs, ours = (
        as_encoder(HFTokenizer(str(bert_folder), 7, **options)),
        OpenClipTokenizer(str(path)),
    )
    for caption in ["a red_square!", "Squares", "a dog of red blue squares of a dog", ""]:
        assert theirs.encode(caption) == ours.encode(caption)
    assert theirs.pad_id == ours.pad_id


def test_transformers_own_objects(bert_folder: Path) -> None:
    from transformers import AutoTokenizer

    inner = AutoTokenizer.from_pretrained(str(bert_folder))
    theirs, ours = as_encoder(inner), TransformersTokenizer(str(bert_folder))
    for caption in ["a red dog", "squares of a dog " * 9, ""]:
        assert theirs.encode(caption) == ours.encode(caption)
    inner.model_max_length = int(1e30)
    with pytest.raises(ConfigError, match="has no length limit"):
        as_encoder(inner)


def test_what_cannot_serve_is_one_line(tmp_path: Path) -> None:
    assert isinstance(as_encoder(tokenizer := ByteTokenizer()), type(tokenizer))
    write_shards(tmp_path, [4])
    with pytest.raises(ConfigError, match=r"tokenizer: expected .* got function; .*encode\(text\)"):
        PairStream(ShardIndex.from_urls(tmp_path), tokenizer=lambda text: [1], batch_size=2)


def test_modes_that_put_a_token_after_the_padding_are_refused(bert_folder: Path) -> None:
    from open_clip.tokenizer import HFTokenizer

    with pytest.raises(ConfigError, match="mode 'clips'"):
        as_encoder(HFTokenizer(str(bert_folder), 7, tokenizer_mode="clips"))
