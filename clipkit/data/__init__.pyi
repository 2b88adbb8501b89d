from .audio.augment import (
    RandomBackground,
    RandomGain,
    RandomNoise,
    SoundAugmentation,
    SpecAugment,
)
from .audio.decode import SoundInfo, decode_sound, sound_info
from .audio.formats import SoundLimits
from .audio.transforms import EvalSoundTransform, SoundTransform, TrainSoundTransform
from .device.decoder import DeviceDecoder
from .device.prefetcher import DevicePrefetcher
from .images.augment import ColorJitter, Grayscale, HorizontalFlip, ImageAugmentation, RandomErasing
from .images.augment_geometry import RandomAffine, RandomPerspective
from .images.decode import ImageDecoder
from .images.device_decoded import DeviceDecodedTransform
from .images.naflex import NaFlexEvalTransform, NaFlexTrainTransform
from .images.optional import OptionalImage
from .images.rand_augment import RandAugment
from .images.transforms import EvalTransform, ImageTransform, TrainTransform
from .modalities.field import ModalityField
from .modalities.series import Series
from .modalities.sounds import Sounds
from .order.mixture import Mixture, Source, Stage
from .order.partition import BatchSizeStage
from .packing.pack import ShardWriter, pack
from .packing.stats import ShardStats, collect_stats
from .packing.tables.columns import TableColumns
from .packing.verify import VerifyReport, verify_shards
from .samples.answers import Answers
from .samples.arrays import read_array
from .samples.candidates import AnswerCandidates, TurnFields
from .samples.faults import FaultOptions
from .samples.fields import (
    CaptionGroup,
    CaptionMask,
    Group,
    MultiLabels,
    NegativeCaptions,
    NegativeImages,
    SampleField,
)
from .samples.teacher_fields import TeacherEmbeddings, TeacherInputs
from .shards.index import ShardIndex
from .shards.masks.sample_mask import SampleMask
from .shards.reader import RawSample, ShardReader
from .storage.cache import ShardCache
from .stream.options import OrderOptions, SampleOptions
from .stream.pair_stream import PairStream
from .stream.source import PairSource
from .stream.webdataset_shards import WebDatasetShards
from .stream.webdataset_source import WebDatasetSource
from .stream.webdataset_stages import TarSamples
from .text.captions import (
    Candidate,
    CaptionPicker,
    JsonFields,
    MixedCaptions,
    OptionalCaption,
    TextField,
)
from .text.facts import Concept, FactTable
from .text.knowledge import KnowledgeCaptions
from .text.languages import LanguageCaptions
from .text.templates import LabelTemplates, TemplatedCaptions
from .text.tokenizer import Tokenizer
from .text.tokenizers import (
    OpenClipTokenizer,
    TiktokenTokenizer,
    TransformersTokenizer,
    tokenizer_from_name,
)

__all__ = [
    "AnswerCandidates",
    "Answers",
    "BatchSizeStage",
    "Candidate",
    "CaptionGroup",
    "CaptionMask",
    "CaptionPicker",
    "ColorJitter",
    "Concept",
    "DeviceDecodedTransform",
    "DeviceDecoder",
    "DevicePrefetcher",
    "EvalSoundTransform",
    "EvalTransform",
    "FactTable",
    "FaultOptions",
    "Grayscale",
    "Group",
    "HorizontalFlip",
    "ImageAugmentation",
    "ImageDecoder",
    "ImageTransform",
    "JsonFields",
    "KnowledgeCaptions",
    "LabelTemplates",
    "LanguageCaptions",
    "MixedCaptions",
    "Mixture",
    "ModalityField",
    "MultiLabels",
    "NaFlexEvalTransform",
    "NaFlexTrainTransform",
    "NegativeCaptions",
    "NegativeImages",
    "OpenClipTokenizer",
    "OptionalCaption",
    "OptionalImage",
    "OrderOptions",
    "PairSource",
    "PairStream",
    "RandAugment",
    "RandomAffine",
    "RandomBackground",
    "RandomErasing",
    "RandomGain",
    "RandomNoise",
    "RandomPerspective",
    "RawSample",
    "SampleField",
    "SampleMask",
    "SampleOptions",
    "Series",
    "ShardCache",
    "ShardIndex",
    "ShardReader",
    "ShardStats",
    "ShardWriter",
    "SoundAugmentation",
    "SoundInfo",
    "SoundLimits",
    "SoundTransform",
    "Sounds",
    "Source",
    "SpecAugment",
    "Stage",
    "TableColumns",
    "TarSamples",
    "TeacherEmbeddings",
    "TeacherInputs",
    "TemplatedCaptions",
    "TextField",
    "TiktokenTokenizer",
    "Tokenizer",
    "TrainSoundTransform",
    "TrainTransform",
    "TransformersTokenizer",
    "TurnFields",
    "VerifyReport",
    "WebDatasetShards",
    "WebDatasetSource",
    "collect_stats",
    "decode_sound",
    "pack",
    "read_array",
    "sound_info",
    "tokenizer_from_name",
    "verify_shards",
]
