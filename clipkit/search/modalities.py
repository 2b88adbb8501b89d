"""What is searched for: images, or a further modality that was embedded."""

from __future__ import annotations

from clipkit.collection import Collection
from clipkit.errors import ConfigError

IMAGE = "image"


def searched_modality(collection: Collection, name: str | None) -> str:
    """Return the modality that is searched for.

    Args:
        collection: The collection.
        name: "image" or the name of a further modality; None for the first of them of which a
            sample has an embedding, images before others.

    Raises:
        ConfigError: If the collection has no embeddings of it.
        DataError: If a table is missing or damaged.

    Examples:
        >>> searched_modality(Collection("collection"), None)
        'image'
    """
    info = collection.info
    known = ((IMAGE,) if info.has_images else ()) + info.modalities
    if name is None:
        several = known if len(known) > 1 else ()
        embedded = (each for each in several if collection.embedded_rows(each).any())
        return next(embedded, known[0] if known else IMAGE)
    if name not in known:
        raise ConfigError(
            f"--modality: the collection has embeddings of {' and '.join(known) or 'texts only'}, "
            f"got {name!r}; embed the data with a model that has such a tower: clipkit embed"
        )
    return name


def plural_of(modality: str) -> str:
    """Return the word for several results.

    Examples:
        >>> plural_of("sound")
        'sounds'
    """
    return f"{modality}s"
