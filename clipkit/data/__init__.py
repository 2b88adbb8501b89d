"""From shards to batches: index, order, reading, decoding, collation, packing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.data.augment import ColorJitter as ColorJitter
    from clipkit.data.augment import Grayscale as Grayscale
    from clipkit.data.augment import HorizontalFlip as HorizontalFlip
    from clipkit.data.augment import ImageAugmentation as ImageAugmentation
    from clipkit.data.augment import RandomErasing as RandomErasing
    from clipkit.data.augment_geometry import RandomAffine as RandomAffine
    from clipkit.data.augment_geometry import RandomPerspective as RandomPerspective
    from clipkit.data.augment_rand import RandAugment as RandAugment
    from clipkit.data.cache import ShardCache as ShardCache
    from clipkit.data.caption_templates import LabelTemplates as LabelTemplates
    from clipkit.data.caption_templates import TemplatedCaptions as TemplatedCaptions
    from clipkit.data.captions import CaptionPicker as CaptionPicker
    from clipkit.data.captions import JsonFields as JsonFields
    from clipkit.data.captions import MixedCaptions as MixedCaptions
    from clipkit.data.captions import OptionalCaption as OptionalCaption
    from clipkit.data.captions import TextField as TextField
    from clipkit.data.decode import ImageDecoder as ImageDecoder
    from clipkit.data.fields import CaptionMask as CaptionMask
    from clipkit.data.fields import Group as Group
    from clipkit.data.fields import MultiLabels as MultiLabels
    from clipkit.data.fields import NegativeCaptions as NegativeCaptions
    from clipkit.data.fields import NegativeImages as NegativeImages
    from clipkit.data.fields import SampleField as SampleField
    from clipkit.data.fields import TeacherEmbeddings as TeacherEmbeddings
    from clipkit.data.fields import TeacherInputs as TeacherInputs
    from clipkit.data.index import ShardIndex as ShardIndex
    from clipkit.data.mixture import Mixture as Mixture
    from clipkit.data.mixture import Source as Source
    from clipkit.data.mixture import Stage as Stage
    from clipkit.data.packing import ShardWriter as ShardWriter
    from clipkit.data.packing import pack as pack
    from clipkit.data.reader import RawSample as RawSample
    from clipkit.data.reader import ShardReader as ShardReader
    from clipkit.data.slicing import BatchSizeStage as BatchSizeStage
    from clipkit.data.stream import PairStream as PairStream
    from clipkit.data.tokenizer import Tokenizer as Tokenizer
    from clipkit.data.tokenizers import OpenClipTokenizer as OpenClipTokenizer
    from clipkit.data.tokenizers import TiktokenTokenizer as TiktokenTokenizer
    from clipkit.data.tokenizers import TransformersTokenizer as TransformersTokenizer
    from clipkit.data.tokenizers import tokenizer_from_name as tokenizer_from_name
    from clipkit.data.transforms import EvalTransform as EvalTransform
    from clipkit.data.transforms import ImageTransform as ImageTransform
    from clipkit.data.transforms import TrainTransform as TrainTransform

# Name -> module; imported when first asked for, so that `import clipkit.data` stays light.
_EXPORTS = {
    "BatchSizeStage": "slicing",
    "CaptionMask": "fields",
    "CaptionPicker": "captions",
    "ColorJitter": "augment",
    "EvalTransform": "transforms",
    "Grayscale": "augment",
    "Group": "fields",
    "HorizontalFlip": "augment",
    "ImageAugmentation": "augment",
    "ImageDecoder": "decode",
    "ImageTransform": "transforms",
    "JsonFields": "captions",
    "LabelTemplates": "caption_templates",
    "MixedCaptions": "captions",
    "Mixture": "mixture",
    "MultiLabels": "fields",
    "NegativeCaptions": "fields",
    "NegativeImages": "fields",
    "OpenClipTokenizer": "tokenizers",
    "OptionalCaption": "captions",
    "PairStream": "stream",
    "RandAugment": "augment_rand",
    "RandomAffine": "augment_geometry",
    "RandomErasing": "augment",
    "RandomPerspective": "augment_geometry",
    "RawSample": "reader",
    "SampleField": "fields",
    "ShardCache": "cache",
    "ShardIndex": "index",
    "ShardReader": "reader",
    "ShardWriter": "packing",
    "Source": "mixture",
    "Stage": "mixture",
    "TeacherEmbeddings": "fields",
    "TeacherInputs": "fields",
    "TemplatedCaptions": "caption_templates",
    "TextField": "captions",
    "TiktokenTokenizer": "tokenizers",
    "Tokenizer": "tokenizer",
    "TrainTransform": "transforms",
    "TransformersTokenizer": "tokenizers",
    "pack": "packing",
    "tokenizer_from_name": "tokenizers",
}

__all__ = sorted(_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
