"""Modality of the samples that are measured: which file of a sample it is, which tower reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from clipkit.data.audio.formats import SOUND_EXTENSIONS, sound_extension
from clipkit.data.images.formats import image_member
from clipkit.data.modalities.field import ModalityField
from clipkit.errors import ConfigError, SampleError
from clipkit.models.inputs import sound_transform_of, transform_of
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import SignalTower
from clipkit.patches import TokenBudget

_NAMES: Final = ("image", "sound")


@dataclass(frozen=True, slots=True)
class QueryInputs:
    """How an encoder reads the files of a modality.

    Args:
        transform: Function from the bytes of a file, and a generator that it does not draw from,
            to what the tower reads. Workers get a copy of it.
        budget: How many patches an input may have; None for inputs of one shape.
        encode: Function from inputs, and rows and columns of patches if there is a budget, to
            unit-norm embeddings.
        classify: Function from the same to the logits of the modality's label head.
    """

    transform: Callable[[bytes, np.random.Generator], Tensor]
    budget: TokenBudget | None
    encode: Callable[..., Float[Tensor, "B D"]]
    classify: Callable[..., Float[Tensor, "B C"]]


class QueryModality(ABC):
    """Modality of the samples of a data set (abstract).

    Attributes:
        name: Name of the modality: that of its tower.
        identity: Equal for modalities of this process that read the same files in the same way.
        is_named: Whether the encoder alone determines how a file is read, so that its embedding
            can be found again under a hash of the encoder and the data.
        is_sound: Whether the samples are sounds, whatever the name of their tower.
        plural: What several of the files are called in messages, such as "images".
    """

    name: str
    identity: tuple[str, int]
    is_named: bool
    is_sound: bool
    plural: str

    @abstractmethod
    def member(self, members: Mapping[str, bytes]) -> bytes:
        """Return the file of this modality among the members of a sample.

        Raises:
            SampleError: If the sample has none.
        """

    @abstractmethod
    def inputs(self, encoder: TowerEncoder) -> QueryInputs:
        """Return how an encoder reads such files.

        Raises:
            ConfigError: If the encoder has no tower for them.
        """


@final
class ImageQueries(QueryModality):
    """Images, as the image tower of the encoder expects them."""

    name, identity, plural = "image", ("image", 0), "images"
    is_named, is_sound = True, False

    def member(self, members: Mapping[str, bytes]) -> bytes:
        """See ``QueryModality.member``."""
        try:
            return image_member(members)
        except SampleError as error:
            if (sound := sound_extension(members)) is None:
                raise
            raise SampleError(
                f"no image, but a sound (.{sound}): to measure sounds, --modality sound "
                f"(modality: sound)"
            ) from error

    def inputs(self, encoder: TowerEncoder) -> QueryInputs:
        """See ``QueryModality.inputs``."""
        tower = encoder.image_tower
        return QueryInputs(
            transform_of(tower), tower.budget, encoder.encode_image, encoder.classify
        )


@final
class SignalQueries(QueryModality):
    """Sounds or inputs of another further modality.

    Args:
        name: Name of the modality: that of its tower.
        members: Extensions of its members; the first that a sample has is read.
        field: Reader of the members, of evaluation; None for the spectrograms that the tower
            declares (``mel``), which also names the piece of a sound.
    """

    def __init__(
        self, name: str, members: Sequence[str], field: ModalityField | None = None
    ) -> None:
        self.name, self.members, self.field = name, tuple(members), field
        self.identity = name, id(field)
        self.is_named = field is None
        self.is_sound = field is None or field.mel is not None
        self.plural = "sounds" if self.is_sound else "samples"

    def member(self, members: Mapping[str, bytes]) -> bytes:
        """See ``QueryModality.member``."""
        for extension in self.members:
            if extension in members:
                return members[extension]
        raise SampleError(
            f"no {self.name}: expected a member {', '.join(self.members)}, got "
            f"{', '.join(sorted(members)) or 'none'}"
        )

    def inputs(self, encoder: TowerEncoder) -> QueryInputs:
        """See ``QueryModality.inputs``."""
        if not isinstance(encoder, NamedTowerEncoder) or self.name not in encoder.modalities:
            raise ConfigError(
                f"modality: expected an encoder with a {self.name}_tower, got the towers "
                f"{', '.join(encoder.towers)}"
            )
        name, tower = self.name, encoder.towers[self.name]
        assert isinstance(tower, SignalTower), "all towers of further modalities are"
        return QueryInputs(
            self._transform(tower),
            None,
            lambda values, _: encoder.encode_signal(name, values),
            lambda values, _: encoder.classify_signal(name, values),
        )

    def _transform(self, tower: SignalTower) -> Callable[[bytes, np.random.Generator], Tensor]:
        if self.field is None:
            return sound_transform_of(tower)
        own = self.field.mel  # whose piece of a sound may be another one
        if own is not None and tower.mel is not None and not own.same_values(tower.mel):
            raise ConfigError(
                f"modality: expected the spectrograms of the {self.name}_tower, {tower.mel}, got "
                f"{own}; use the same mel, or modality: sound"
            )
        return self.field.read


IMAGES: Final = ImageQueries()
"""The modality of data sets unless another one is given."""
_SOUNDS: Final = SignalQueries("sound", SOUND_EXTENSIONS)


def query_modality(given: str | ModalityField) -> QueryModality:
    """Return a modality by its name, or that of the field that reads it.

    Args:
        given: "image"; "sound" for the spectrograms that the encoder's sound tower declares; or
            the field of ``data.samples.fields`` that reads another modality.

    Raises:
        ConfigError: If the name is unknown.

    Examples:
        >>> query_modality("sound").name
        'sound'
    """
    if isinstance(given, ModalityField):
        field = given.for_evaluation()
        assert isinstance(field, ModalityField), "the field of a modality stays one"
        return SignalQueries(field.name, field.members, field)
    if given not in _NAMES:
        raise ConfigError(
            f"modality: expected {' or '.join(_NAMES)}, or the field that reads another modality, "
            f"got {given!r}"
        )
    return IMAGES if given == IMAGES.name else _SOUNDS
