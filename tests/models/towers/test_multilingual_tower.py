"""A multilingual encoder of transformers with its own tokenizer, trained on several languages."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.data import EvalTransform, LanguageCaptions, ShardIndex, TransformersTokenizer
from clipkit.evaluation import CaptionTranslation, Retrieval, RetrievalOptions, open_dataset
from clipkit.losses import ContrastiveLoss
from clipkit.models import DualEncoder, OpenClipImageTower, TransformersTextTower, load_encoder
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.evaluation_data import OPEN_CLIP
from tests.helpers.factories import COLORS, image_bytes, write_shard
from tests.helpers.fakes import flat_stream

NAMES = {
    "red": {"en": "red square", "de": "rotes Quadrat", "ar": "مربع أحمر", "ja": "赤い四角🟥"},
    "green": {"en": "green square", "de": "grünes Quadrat", "ar": "مربع أخضر", "ja": "緑の四角🟩"},
    "blue": {"en": "blue square", "de": "blaues Quadrat", "ar": "مربع أزرق", "ja": "青い四角🟦"},
    "yellow": {"en": "yellow one", "de": "gelbes Quadrat", "ar": "مربع أصفر", "ja": "黄色い四角🟨"},
}  # fmt: skip
TEXTS = [text for names in NAMES.values() for text in names.values()]
PLACE = "json:caption_{language}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """XLM-R's architecture, and a tokenizer of its kind, as transformers saves them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("xlm")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", model_max_length=20,
    ).save_pretrained(path)  # fmt: skip
    config = AutoConfig.for_model(
        "xlm-roberta", vocab_size=tokenizer.get_vocab_size(), hidden_size=32,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24, pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(path)
    return path


def make_encoder(folder):
    torch.manual_seed(0)
    text = TransformersTextTower(str(folder), embedding_dim=24, context_length=20)
    return DualEncoder(OpenClipImageTower(OPEN_CLIP), text)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    samples = []
    for number in range(16):
        color = list(COLORS)[number % 4]
        fields = {f"caption_{language}": text for language, text in NAMES[color].items()}
        members = {"jpg": image_bytes(color, seed=number), "json": json.dumps(fields).encode()}
        samples.append((f"s{number}", members))
    return write_shard(tmp_path_factory.mktemp("data") / "0.tar", samples).parent


def test_every_script_has_tokens_of_its_own(folder):
    tokenizer = TransformersTokenizer(str(folder))
    ids = [tokenizer.encode(text) for text in TEXTS]
    assert len(set(map(tuple, ids))) == len(TEXTS)
    unknown = 3
    assert all(unknown not in of_text for of_text in ids)
    assert all(of_text[0] == 0 and of_text[-1] == 2 for of_text in ids)
    assert unknown in tokenizer.encode("ไทย")


@torch.no_grad()
def test_padding_and_checkpoints_change_no_embedding(folder, tmp_path):
    encoder = make_encoder(folder).eval()
    tokenizer = TransformersTokenizer(str(folder))
    together = encoder.encode_text(tokenizer(TEXTS))
    alone = torch.cat([encoder.encode_text(tokenizer([text])) for text in TEXTS])
    assert (together - alone).abs().max() <= 1e-5
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(TEXTS)))
    loaded = load_encoder(str(write_checkpoint(tmp_path / "last.ckpt", encoder)))
    assert torch.equal(loaded.eval().encode_text(tokenizer(TEXTS)), together)


def test_languages_meet_at_the_images(folder, shards):
    """Trained on pairs of an image and one language, captions translate into all others."""
    encoder = make_encoder(folder).train()
    stream = flat_stream(
        ShardIndex.from_urls(str(shards)), tokenizer=TransformersTokenizer(str(folder)),
        batch_size=8, image_transform=EvalTransform(32), caption=LanguageCaptions(PLACE),
    )  # fmt: skip
    data = open_dataset(shards, caption=LanguageCaptions(PLACE))
    correct = RetrievalOptions(merge_captions=True)
    translation = CaptionTranslation(data, ks=(1,), merge_captions=True)
    before = translation.run(encoder)
    assert len(before) == 4 * 3 + 2
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    loss = ContrastiveLoss()
    for epoch in range(40):
        stream.set_epoch(epoch)
        for batch in stream:
            loss(encoder(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
            stream.commit(batch)
    after = translation.run(encoder)
    assert after["recall_at_1"] > max(before["recall_at_1"], 0.6)
    assert Retrieval(data, ks=(1,), correct=correct).run(encoder)["text_to_image/recall_at_1"] > 0.6
