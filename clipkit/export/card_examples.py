"""Python code for model cards: embed examples of the modalities, run in the exported folder."""

from __future__ import annotations

from typing import Final

from clipkit.models import DualEncoder, JointEncoder, SignalTower, TowerEncoder
from clipkit.models.checkpoints.kinds import loader_name
from clipkit.models.onnx_towers import FUSION, MASK, TOKENS, graph_file

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

_INPUTS: Final = {"text": '["a dog", "a cat"]', "image": '["dog.jpg"]', "sound": '["bark.wav"]'}
_ONNX_IMPORTS: Final = {"image": "from PIL import Image, ImageOps\n",
                        "text": "from tokenizers import Tokenizer\n"}  # fmt: skip
_SOUND_IMPORTS: Final = """\
from clipkit.data import EvalSoundTransform
from clipkit.mel import MelOptions
"""
_ONNX_IMAGE: Final = """\
resample = Image.Resampling[facts["image"]["interpolation"].upper()]
photo = Image.open("dog.jpg").convert("RGB")
# For the resize_mode "shortest"; Image.resize for "squash", ImageOps.pad for "longest".
photo = ImageOps.fit(photo, facts["image"]["size"], resample)
pixels = np.asarray(photo).transpose(2, 0, 1)[None]  # uint8; the graph normalises
"""
_ONNX_TEXT: Final = """\
tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation(facts["text"]["context_length"])
tokenizer.enable_padding(pad_id=facts["text"]["pad_id"])
tokens = np.array([line.ids for line in tokenizer.encode_batch(["a dog", "a cat"])])
"""
_ONNX_SOUND: Final = """\
mel = MelOptions.from_config(facts["modalities"]["{name}"]["mel"])
values = EvalSoundTransform(mel).of_file(open("bark.wav", "rb").read())[None].numpy()
"""
_ONNX_SERIES: Final = """\
values = np.zeros([1, *facts["modalities"]["{name}"]["shape"]], np.float32)  # your values
"""


def safetensors_example(encoder: TowerEncoder) -> str:
    """Return code that loads the files with clipkit and compares modalities."""
    name = loader_name(encoder)
    start = f'from clipkit.models import {name}\n\nencoder = {name}(".")'
    start += '  # or "hf-hub:OWNER/NAME"\n'
    if isinstance(encoder, DualEncoder):
        call = 'texts, images = encoder.encode(["a dog", "a cat"], ["dog.jpg"])\n'
        return f"{start}{call}print(images @ texts.T)\n"
    signals = {n: t for n, t in encoder.towers.items() if isinstance(t, SignalTower)}
    in_one = [n for n in _INPUTS if n in encoder.towers
              and (n not in signals or signals[n].mel is not None)]  # fmt: skip
    given = ", ".join(f"{n}={_INPUTS[n]}" for n in in_one)
    lines = [f"embedded = encoder.encode({given})\n"]
    for n, tower in signals.items():
        if n not in in_one:
            lines.append(f'embedded["{n}"] = {_signal_call(n, tower)}\n')
    if matches_pairs(encoder):
        lines.append('logits = match_pairs(encoder, ["dog.jpg"] * 2, ["a dog", "a cat"])\n')
    imports = "import torch\n\n" if any("torch." in line for line in lines) else ""
    shown = [f'print(embedded["{a}"] @ embedded["{b}"].T)\n' for a, b in _compared(encoder)]
    if matches_pairs(encoder):
        start = start.replace(f"import {name}", f"import {name}, match_pairs")
        shown.append("print(logits)\n")
    return "".join([imports, start, *lines, *shown])


def matches_pairs(encoder: TowerEncoder) -> bool:
    """Return whether an encoder has a fusion of images and texts alone."""
    return isinstance(encoder, JointEncoder) and {*encoder.fused_names} == {"image", "text"}


def _signal_call(name: str, tower: SignalTower) -> str:
    if tower.mel is not None:
        return f'encoder.encode_sounds(["bark.wav"], "{name}")'
    shape = ", ".join(map(str, (1, *tower.input_shape)))
    return f'encoder.encode_signal("{name}", torch.zeros({shape})).detach()  # your values'


def onnx_example(encoder: TowerEncoder) -> str:
    """Return code that runs the graphs with onnxruntime and compares modalities."""
    imports = [_ONNX_IMPORTS[name] for name in ("image", "text") if name in encoder.towers]
    parts = []
    for name, tower in encoder.towers.items():
        given, prepared = "values", _ONNX_SERIES.format(name=name)
        if name == "image":
            given, prepared = "pixels", _ONNX_IMAGE
        elif name == "text":
            given, prepared = "tokens", _ONNX_TEXT
        elif isinstance(tower, SignalTower) and tower.mel is not None:
            prepared = _ONNX_SOUND.format(name=name)
            imports += [] if _SOUND_IMPORTS in imports else [_SOUND_IMPORTS]
        outputs = [name, *token_outputs(encoder, name)]
        session = f'onnxruntime.InferenceSession("{graph_file(name)}")'
        call = f'{session}.run(None, {{"{given}": {given}}})'
        parts.append(f"{prepared}({', '.join(outputs)},) = {call}\n")
    return "".join([
        "import json\n\nimport numpy as np\nimport onnxruntime\n", *imports,
        '\nfacts = json.load(open("preprocessing.json"))\n', *parts,
        *(f"print({first} @ {second}.T)\n" for first, second in _compared(encoder)),
        _onnx_matching(encoder),
    ])  # fmt: skip


def token_outputs(encoder: TowerEncoder, name: str) -> list[str]:
    """Return the names of the outputs of a tower that its fusion reads."""
    if not isinstance(encoder, JointEncoder) or name not in encoder.fused_names:
        return []
    return [f"{name}{TOKENS}", *([f"{name}{MASK}"] if name == "text" else [])]


def _onnx_matching(encoder: TowerEncoder) -> str:
    """Return code that matches each row of a modality with the first row of every other."""
    if not isinstance(encoder, JointEncoder):
        return ""
    most = "text" if "text" in encoder.fused_names else encoder.fused_names[0]
    inputs = [name for part in encoder.fused_names for name in token_outputs(encoder, part)]
    rows = ", ".join(
        f'"{name}": {name}'
        if name.startswith(f"{most}_")
        else f'"{name}": np.repeat({name}[:1], len({most}), axis=0)'
        for name in inputs
    )
    return (
        f'matching = onnxruntime.InferenceSession("{graph_file(FUSION)}")\n'
        f"pairs = {{{rows}}}  # one row per pair\n"
        f"print(matching.run(None, pairs)[0])\n"
    )


def _compared(encoder: TowerEncoder) -> list[tuple[str, str]]:
    """Return the pairs of modalities whose similarities an example prints: each with one."""
    names = list(encoder.towers)
    anchor = "text" if "text" in names else names[0]
    return [(name, anchor) for name in names if name != anchor] or [(anchor, anchor)]
