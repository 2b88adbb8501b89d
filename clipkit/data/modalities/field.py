"""The reader of a further modality, such as sounds or series of numbers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from clipkit.data.rng import generator
from clipkit.data.samples.content import sample_errors
from clipkit.data.samples.fields import SampleContext, SampleField
from clipkit.errors import ConfigError, SampleError, check_choice
from clipkit.mel import MelOptions
from clipkit.types import ModalitySample, Sample

OnError = Literal["skip", "absent"]
"""What a member that cannot be read does to its sample."""
_RESERVED: Final = ("image", "text")
_SEEDS: Final = 2**63


class ModalityField(SampleField):
    """Reads a further modality: ``batch.modalities[name]`` (abstract).

    A sample without such a member has zeros, and counts as absent: its other inputs are trained on.
    ``read`` has a random generator of its own, so that no other part of a sample depends on whether
    this one is there.

    Args:
        name: Name of the modality: that of its tower.
        members: Extensions of its members, such as ["flac", "wav"]; the first that a sample has is
            read.
        on_error: What a member that cannot be read does: "skip" leaves out the sample, "absent"
            keeps it without this input. Either is logged, and counts for ``faults``.

    Attributes:
        mel: Parameters of the spectrograms that it returns, which are those of the tower; None if
            it returns other values.

    Raises:
        ConfigError: If the name is taken or no identifier, there is no extension, or ``on_error``
            is unknown.
    """

    mel: MelOptions | None = None

    def __init__(self, name: str, members: Sequence[str], on_error: OnError = "skip") -> None:
        if not name.isidentifier() or name in _RESERVED:
            raise ConfigError(
                f"{type(self).__name__}.name: expected an identifier other than "
                f"{' and '.join(_RESERVED)}, got {name!r}"
            )
        if isinstance(members, str) or not members:
            raise ConfigError(
                f"{type(self).__name__}.members: expected a list of extensions, got {members!r}"
            )
        check_choice(f"{type(self).__name__}.on_error", on_error, get_args(OnError))
        self.name, self.members, self.on_error = name, tuple(members), on_error

    @abstractmethod
    def read(self, data: bytes, rng: np.random.Generator) -> Float[Tensor, "*rest"]:
        """Convert a member to what the tower reads.

        Args:
            data: Bytes of the member.
            rng: Random generator of this part of the sample, for crops and augmentation.

        Returns:
            Values of the shape of ``empty()``.

        Raises:
            SampleError: If the member cannot be used. Errors of decoders over broken content, such
                as ``ValueError``, are converted to it.
        """

    @abstractmethod
    def empty(self) -> Float[Tensor, "*rest"]:
        """Return zeros of the shape that ``read`` returns, for a sample without this modality."""

    def value_options(self) -> dict[str, Any]:
        """Return the parameters of its values by name, which a tower that declares them shares.

        Those of its spectrograms (``mel.sample_rate`` and so on), if it has any. A run whose tower
        declares another value is refused.
        """
        return {} if self.mel is None else self.mel.named_values()

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        seed = int(context.rng.integers(_SEEDS))  # drawn also where the member is missing
        part, fault = self.input_of(context.members, seed)
        return replace(
            sample,
            modalities={**(sample.modalities or {}), self.name: part},
            faults=sample.faults if fault is None else (*sample.faults, fault),
        )

    def input_of(
        self, members: Mapping[str, bytes], seed: int
    ) -> tuple[ModalitySample, str | None]:
        """Return the input of a sample, and what is wrong with it if it therefore counts as absent.

        Args:
            members: Files of the sample by extension.
            seed: Seed of the random generator of ``read``.

        Raises:
            SampleError: If its member cannot be used, unless ``on_error`` is "absent".
        """
        absent = ModalitySample(self.empty(), is_present=False)
        member = next((name for name in self.members if name in members), None)
        if member is None:
            return absent, None
        try:
            return ModalitySample(self._values(members[member], member, seed)), None
        except SampleError as error:
            if self.on_error == "skip":
                raise
            return absent, error.reason

    def _values(self, data: bytes, member: str, seed: int) -> Float[Tensor, "*rest"]:
        try:
            with sample_errors():
                values = self.read(data, generator(seed))
        except SampleError as error:
            raise SampleError(f"{self.name}: member {member}: {error.reason}") from error
        expected = self.empty()
        if values.shape != expected.shape or values.dtype != expected.dtype:
            raise SampleError(
                f"{self.name}: member {member}: expected {tuple(expected.shape)} of "
                f"{expected.dtype}, got {tuple(values.shape)} of {values.dtype}"
            )
        if not bool(values.isfinite().all()):
            raise SampleError(f"{self.name}: member {member}: NaN or infinity among its values")
        return values
