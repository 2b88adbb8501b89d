"""Tokenizers in the files that other libraries read."""

import pytest

from clipkit.data.text.tokenizer_export import save_tokenizer
from clipkit.data.text.tokenizers import OpenClipTokenizer, TiktokenTokenizer
from clipkit.errors import ConfigError
from tests.helpers.captions import CAPTIONS


def test_clip_vocabulary_for_transformers_and_tokenizers(tmp_path):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    ours = OpenClipTokenizer("ViT-B-32", context_length=24)
    save_tokenizer(ours, tmp_path)
    whole, bare = (
        AutoTokenizer.from_pretrained(tmp_path),
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")),
    )
    assert whole.model_max_length == 24
    repaired = ("&", "Ã", "ﬁ", "\x1b", "<start_of_text>", "ſ", "“")
    plain = [text for text in CAPTIONS if not any(sign in text for sign in repaired)]
    assert len(plain) >= 6
    for text in plain:
        assert whole(text, truncation=True)["input_ids"] == ours.encode(text), text
        if len(ours.encode(text)) < 24:
            assert bare.encode(text).ids == ours.encode(text)


def test_what_transformers_lacks_is_refused(tmp_path):
    tokenizer = TiktokenTokenizer.__new__(TiktokenTokenizer)  # its vocabulary is a download
    tokenizer.name = "tiktoken:cl100k_base"
    with pytest.raises(ConfigError, match="--format open_clip or safetensors"):
        save_tokenizer(tokenizer, tmp_path)
    assert not list(tmp_path.iterdir())
