"""The image transforms of training data, from the image tower and checked against it."""

from __future__ import annotations

import torch

from clipkit.data import (
    DeviceDecodedTransform,
    DeviceDecoder,
    NaFlexTrainTransform,
    OptionalImage,
    TrainTransform,
)
from clipkit.data.images.transforms import ImageTransform
from clipkit.errors import ConfigError
from clipkit.models import ImageTower, TowerEncoder
from clipkit.models.inputs import transform_of


def train_transform_of(tower: ImageTower) -> ImageTransform:
    """Return random crops as an image tower reads them."""
    if not tower.reads_images:
        return OptionalImage()
    if (budget := tower.budget) is None:
        return TrainTransform(tower.image_size, interpolation=tower.interpolation)
    return NaFlexTrainTransform(
        budget.patch_size,
        budget.max_tokens,
        interpolation=tower.interpolation,
        enlarge=budget.enlarge,
    )


def train_transform_for(
    transform: ImageTransform | None, encoder: TowerEncoder | None
) -> ImageTransform:
    """Return ``data.samples.transform``, or random crops for the encoder that is trained.

    Raises:
        ConfigError: If it does not fit the encoder, or there is neither of them.
    """
    if transform is None:
        return train_transform_of(required_encoder("samples.transform", encoder).image_tower)
    if encoder is not None:
        check_transform(transform, encoder.image_tower)
    return transform


def val_transform_for(
    transform: ImageTransform | None, encoder: TowerEncoder | None
) -> ImageTransform:
    """Return ``data.validation.transform``, or that of the encoder that is trained.

    Raises:
        ConfigError: If it does not fit the encoder, or there is neither of them, or the device
            decodes.
    """
    if transform is None:
        tower = required_encoder("validation.transform", encoder).image_tower
        return transform_of(tower) if tower.reads_images else OptionalImage()
    if isinstance(transform, DeviceDecodedTransform):
        raise ConfigError(
            "data.validation.transform: images are decoded exactly in validation, and "
            "DeviceDecodedTransform is for training; omit it, or use EvalTransform"
        )
    if encoder is not None:
        check_transform(transform, encoder.image_tower)
    return transform


def decoder_for(transform: ImageTransform | None, device: torch.device) -> DeviceDecoder | None:
    """Return what decodes the images of a training transform on a device; None if workers do.

    Raises:
        ConfigError: If the device cannot decode.
    """
    if not isinstance(transform, DeviceDecodedTransform):
        return None
    return DeviceDecoder(device, transform.crop.interpolation, transform.max_decoded_mib)


def required_encoder(option: str, encoder: TowerEncoder | None) -> TowerEncoder:
    """Return the encoder that is trained, from which the default of an option is taken."""
    if encoder is None:
        raise ConfigError(f"data.{option}: required if no encoder is trained")
    return encoder


def check_transform(transform: ImageTransform, tower: ImageTower) -> None:
    """Check whether the image tower reads what the transform returns.

    Raises:
        ConfigError: If one of them is for images of one shape and the other for patches, or if
            their sizes differ.
    """
    if not tower.reads_images:
        return
    made, read = transform.budget, tower.budget
    if made is None and read is None:
        if transform.image_size != tower.image_size:
            raise ConfigError(
                f"data: the image transform returns images of {transform.image_size} pixels, the "
                f"image tower expects {tower.image_size}; omit the transform, or set the same size "
                f"for both"
            )
    elif made is None or read is None:
        kinds = {True: "images of one shape", False: "images of any shape, as patches"}
        raise ConfigError(
            f"data: {type(transform).__name__} returns {kinds[made is None]}, "
            f"{type(tower).__name__} reads {kinds[read is None]}; omit the transform, or use "
            f"{'TrainTransform' if read is None else 'NaFlexTrainTransform'} or "
            f"{'EvalTransform' if read is None else 'NaFlexEvalTransform'}"
        )
    elif made.patch_size != read.patch_size:
        raise ConfigError(
            f"data: the image transform has patch_size={made.patch_size}, the image tower "
            f"{read.patch_size}; omit the transform, or set the same for both"
        )
    elif made.max_tokens > read.max_tokens:
        raise ConfigError(
            f"data: the image transform returns up to max_tokens={made.max_tokens} patches, the "
            f"image tower reads {read.max_tokens}; raise max_tokens of the tower, or lower that "
            f"of the transform"
        )
