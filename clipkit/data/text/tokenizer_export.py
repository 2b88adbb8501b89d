"""Write a tokenizer for programs that do not use clipkit."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from clipkit.atomic_files import write_json
from clipkit.data.text.clip_bpe import clip_bpe
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError

_START: Final = "<|startoftext|>"
_END: Final = "<|endoftext|>"
_SAMPLES: Final = (
    "a dog",
    "A photo of two dogs, running on the beach!",
    "it's 3:45 pm; we'll see 12 birds + a cat",
    "naïve café, Straße 7",
)


def save_tokenizer(tokenizer: Tokenizer, folder: Path, masks: bool = True) -> None:
    """Write what ``transformers.AutoTokenizer.from_pretrained(folder)`` reads.

    ``tokenizer.json`` among the files is all that the library tokenizers needs. Broken Unicode and
    HTML entities in captions are repaired by clipkit and open_clip only.

    Args:
        tokenizer: The tokenizer.
        folder: Folder for the files.
        masks: Whether it returns a mask of the padding; a text tower that attends to its padding
            must not be given one.
    """
    from transformers import AutoTokenizer

    tokenizer.in_transformers().save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    content["model_max_length"] = tokenizer.context_length
    if not masks:
        content["model_input_names"] = ["input_ids"]
    write_json(settings, content)
    try:
        copy = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"tokenizer {tokenizer.name}: transformers cannot read it again without Python code of "
            f"its own: {error}; export with --format open_clip or safetensors instead"
        ) from error
    for text in _SAMPLES:
        ours = tokenizer.encode(text)
        theirs = copy(text, truncation=True, max_length=tokenizer.context_length)["input_ids"]
        padded = copy(text, truncation=True, padding="max_length")["input_ids"]
        pad_ids = [tokenizer.pad_id] * (tokenizer.context_length - len(ours))
        if not masks and list(padded) != [*ours, *pad_ids]:
            raise ConfigError(
                f"tokenizer {tokenizer.name}: transformers pads {text!r} as {list(padded)}, "
                f"expected {[*ours, *pad_ids]}; export with --format open_clip or safetensors"
            )
        if ours != list(theirs):
            raise ConfigError(
                f"tokenizer {tokenizer.name}: transformers reads {text!r} as {list(theirs)}, "
                f"expected {ours}; export with --format open_clip or safetensors instead"
            )


def canonical_in_transformers(inner: Any) -> Any:
    """Return a tokenizer of transformers that removes case and punctuation as SigLIP's does.

    open_clip does so before it calls the tokenizer (``clean: canonicalize``); here it is the first
    part of ``tokenizer.json``.
    """
    from tokenizers import Regex, normalizers
    from tokenizers import Tokenizer as Pipeline
    from transformers import PreTrainedTokenizerFast

    pipeline = Pipeline.from_str(inner.backend_tokenizer.to_str())
    steps = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    own = [] if pipeline.normalizer is None else [pipeline.normalizer]
    pipeline.normalizer = normalizers.Sequence([*steps, *own])
    names = {name: str(token) for name, token in inner.special_tokens_map.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=pipeline, padding_side=inner.padding_side, **names
    )


def clip_in_transformers(context_length: int) -> Any:
    """Return CLIP's tokenizer as an object of transformers, with its names of start and end.

    It is built from the files that all versions of transformers read, not by a constructor whose
    arguments differ between them.
    """
    from transformers import AutoTokenizer

    bpe = clip_bpe()
    names = {bpe.start_id: _START, bpe.end_id: _END}
    ids = {names.get(index, symbol): index for symbol, index in bpe.ids.items()}
    merges = ["#version: 0.2", *(f"{first} {second}" for first, second in bpe.merges)]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join([*merges, ""]), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
