"""What is searched for: images, or a further modality that was embedded."""

from __future__ import annotations

from clipkit.collection import CollectionInfo
from clipkit.errors import ConfigError

IMAGE = "image"


def searched_modality(info: CollectionInfo, name: str | None) -> str:
    """Return the modality that is searched for.

    Args:
        info: Content of ``collection.json``.
        name: "image" or the name of a further modality; None for images, or for the first further
            modality if the model has no tower for images.

    Raises:
        ConfigError: If the collection has no embeddings of it.

    Examples:
        >>> searched_modality(Collection("collection").info, None)
        'image'
    """
    known = ((IMAGE,) if info.has_images else ()) + info.modalities
    if name is None:
        return known[0] if known else IMAGE
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
