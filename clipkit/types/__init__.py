"""Data that is passed between the stages, and the legend of axes.

Axes in shape annotations, in all of clipkit:

| axis | meaning |
| --- | --- |
| B | samples in the batch of this rank |
| N | samples in the batch of all ranks, or of a complete set |
| D | components of an embedding |
| S | tokens of a caption, padded to the longest of the batch |
| C | classes |
| H W | height and width of an image, in pixels |
| patches | patches of an image of any shape, padded to the most of the batch |

Every other axis is a word, such as ``"tile_rows columns"``.
"""

from clipkit.types.batch import (
    Batch,
    CandidateBatch,
    EncodedImages,
    ModalityBatch,
    NegativeBatch,
    PairSizes,
    TeacherBatch,
)
from clipkit.types.embeddings import Embeddings, ModalityEmbeddings
from clipkit.types.samples import (
    IGNORE_LABEL,
    CandidateSample,
    EncodedImage,
    ModalitySample,
    NegativeSample,
    Sample,
    TeacherSample,
)

__all__ = [
    "IGNORE_LABEL",
    "Batch",
    "CandidateBatch",
    "CandidateSample",
    "Embeddings",
    "EncodedImage",
    "EncodedImages",
    "ModalityBatch",
    "ModalityEmbeddings",
    "ModalitySample",
    "NegativeBatch",
    "NegativeSample",
    "PairSizes",
    "Sample",
    "TeacherBatch",
    "TeacherSample",
]
