"""Instances of pair choice: few images and texts, of which the i-th belong together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from clipkit.data.packing.items import read_file
from clipkit.data.packing.tables.row_files import TableRows
from clipkit.data.shards.index import ShardIndex
from clipkit.errors import SampleError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, EvaluationSample
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.types import IGNORE_LABEL


class ChoiceData(ABC):
    """Instances of pair choice (abstract).

    Attributes:
        name: Name of the data in messages.
        num_images: Images of each instance.
        index: Shards of the data, which identify them; None for tables.
    """

    name: str
    num_images: int
    index: ShardIndex | None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of instances."""

    @abstractmethod
    def key(self, number: int) -> str:
        """Return the name of an instance."""

    @abstractmethod
    def texts(self, number: int) -> tuple[str, ...]:
        """Return the texts of an instance."""

    @abstractmethod
    def image(self, number: int, place: int) -> bytes:
        """Return an image file of an instance."""

    @abstractmethod
    def category(self, number: int) -> str | None:
        """Return the kind of an instance; None if the data have no kinds."""


@final
class ShardChoices(ChoiceData):
    """One image per instance; the first caption is the right one.

    Args:
        data: Images with captions.
        category_field: Field of a JSON member with the kind of an instance, as "json:kind"; None
            for no kinds.
    """

    num_images = 1

    def __init__(self, data: EvaluationDataset, category_field: str | None = None) -> None:
        self.name = data.name
        self.index: ShardIndex | None = data.index
        self._data = data
        self._category_field = category_field

    def __len__(self) -> int:
        return len(self._data)

    def key(self, number: int) -> str:
        """See ``ChoiceData.key``."""
        return self._data.sample(number).key

    def texts(self, number: int) -> tuple[str, ...]:
        """See ``ChoiceData.texts``."""
        return self._data.sample(number).captions

    def image(self, number: int, place: int) -> bytes:
        """See ``ChoiceData.image``."""
        assert place == 0
        return self._data.sample(number).image

    def category(self, number: int) -> str | None:
        """See ``ChoiceData.category``."""
        field = self._category_field
        return None if field is None else self._data.value(number, field)


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """Row of a table.

    Args:
        key: Name of the instance.
        texts: The texts.
        images: Path of each image, or part and row of the table that contain its bytes.
        category: Kind of the instance; None for none.
    """

    key: str
    texts: tuple[str, ...]
    images: tuple[Path | tuple[TableRows, str, int], ...]
    category: str | None


@final
class TableChoices(ChoiceData):
    """Rows of a table; images are files or in the table.

    Args:
        name: Name of the data in messages.
        rows: The rows.
        num_images: Images of each row.
    """

    index = None

    def __init__(self, name: str, rows: Sequence[ChoiceRow], num_images: int) -> None:
        self.name = name
        self.num_images = num_images
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """See ``ChoiceData.key``."""
        return self._rows[number].key

    def texts(self, number: int) -> tuple[str, ...]:
        """See ``ChoiceData.texts``."""
        return self._rows[number].texts

    def image(self, number: int, place: int) -> bytes:
        """See ``ChoiceData.image``."""
        image = self._rows[number].images[place]
        if isinstance(image, Path):
            return read_file(image)
        part, column, row = image
        data = part.image(column, row)
        if not data:
            raise SampleError(f"column {column}: no bytes", key=self.key(number))
        return data

    def category(self, number: int) -> str | None:
        """See ``ChoiceData.category``."""
        return self._rows[number].category


@final
class ChoiceImages:
    """The images of all instances as samples, one after another, as ``embed_pairs`` reads them.

    The texts are those of the first image of an instance.

    Args:
        data: The instances.
    """

    modality = IMAGES

    def __init__(self, data: ChoiceData) -> None:
        self.name = data.name
        self.index = data.index
        self.variant = "choices"
        self.identity = ("choices", id(data))
        self._data = data

    def __len__(self) -> int:
        return len(self._data) * self._data.num_images

    def sample(self, sample_id: int) -> EvaluationSample:
        """Return an image, with the texts of its instance if it is the first one."""
        number, place = divmod(sample_id, self._data.num_images)
        texts = self._data.texts(number) if place == 0 else ()
        image = self._data.image(number, place)
        return EvaluationSample(self._data.key(number), image, texts, IGNORE_LABEL)
