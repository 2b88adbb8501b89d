"""Python code for model cards: embed an image and two captions, run in the exported folder."""

from __future__ import annotations

from typing import Final

OPEN_CLIP: Final = """\
import open_clip
import torch
from PIL import Image

name = "local-dir:."  # or "hf-hub:OWNER/NAME"
model, _, preprocess = open_clip.create_model_and_transforms(name)
tokenizer = open_clip.get_tokenizer(name)
with torch.inference_mode():
    image = model.eval().encode_image(preprocess(Image.open("dog.jpg"))[None], normalize=True)
    text = model.encode_text(tokenizer(["a dog", "a cat"]), normalize=True)
print(image @ text.T)
"""

TRANSFORMERS: Final = """\
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(".").eval()
processor = AutoProcessor.from_pretrained(".")
inputs = processor(
    text=["a dog", "a cat"], images=Image.open("dog.jpg"), padding="max_length", truncation=True,
    return_tensors="pt",
)
with torch.inference_mode():
    out = model(**inputs)
print(out.image_embeds @ out.text_embeds.T)
"""

SENTENCE_TRANSFORMERS: Final = """\
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")  # or "OWNER/NAME"
image, text = model.encode([Image.open("dog.jpg")]), model.encode(["a dog", "a cat"])
print(model.similarity(image, text))
"""

ONNX: Final = """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

facts = json.load(open("preprocessing.json"))
resample = Image.Resampling[facts["image"]["interpolation"].upper()]
photo = Image.open("dog.jpg").convert("RGB")
# For the resize_mode "shortest"; Image.resize for "squash", ImageOps.pad for "longest".
photo = ImageOps.fit(photo, facts["image"]["size"], resample)
pixels = np.asarray(photo).transpose(2, 0, 1)[None]  # uint8; the graph normalises
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation(facts["text"]["context_length"])
tokenizer.enable_padding(pad_id=facts["text"]["pad_id"])
tokens = np.array([line.ids for line in tokenizer.encode_batch(["a dog", "a cat"])])
(image,) = onnxruntime.InferenceSession("image.onnx").run(None, {"pixels": pixels})
(text,) = onnxruntime.InferenceSession("text.onnx").run(None, {"tokens": tokens})
print(image @ text.T)
"""

SAFETENSORS: Final = """\
from clipkit.models import load_encoder

encoder = load_encoder(".")  # or "hf-hub:OWNER/NAME"
texts, images = encoder.encode(["a dog", "a cat"], ["dog.jpg"])
print(images @ texts.T)
"""
