"""Pairs for training and validation, as Lightning sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from lightning.pytorch import LightningDataModule

from clipkit.data import BatchSizeStage, PairStream, ShardCache, Stage
from clipkit.data.images.transforms import EvalTransform, ImageTransform, TrainTransform
from clipkit.data.packing.packed_cache import is_raw
from clipkit.data.samples.fields import SampleField
from clipkit.data.text.captions import CaptionPicker
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import ConfigError
from clipkit.models import DualEncoder
from clipkit.training.checks.options import check_image_size, check_tokenizer
from clipkit.training.datamodule.sources import (
    Access,
    Choice,
    MixedSource,
    check_classes,
    class_names_of,
    open_data,
    open_index,
)
from clipkit.types import Batch


@final
class PairDataModule(LightningDataModule):
    """Shards of pairs, read by ``PairStream`` s that resume exactly.

    What is left out is taken from the encoder that is trained: the tokenizer that belongs to its
    text tower, and transforms to its image tower's size.

    Args:
        train: Shards to train on: a path, URL, pattern with braces or ``*``, or several of them; or
            a table or folder of pictures, which is packed once into a cache beside it.
        val: The same to validate on; None for no validation.
        batch_size: Pairs of a batch on one process; N processes train on N times as many a step.
        batch_size_stages: Smaller batches for the first samples of a run. Steps in ``max_steps``
            and schedules go on meaning steps of ``batch_size``.
        val_batch_size: Pairs of a validation batch on one process, at most; None for
            ``batch_size``. All validation pairs are cut into batches of nearly equal size.
        tokenizer: For captions.
        train_transform: From an image file to pixels, for training.
        val_transform: From an image file to pixels, for validation.
        train_caption: Picks the text of a training pair; None for its ``.txt``.
        val_caption: Picks the text of a validation pair; None for its ``.txt``.
        label_field: Where the class is: a member ("cls") or a JSON field ("json:category").
        num_workers: Processes that build training batches; 0 for none.
        num_threads: Samples that a worker makes at the same time.
        seed: Of the order, the augmentation and the choice of captions.
        shuffle_window: Samples that are shuffled together; None to choose.
        length_window_batches: Batches of all processes among which training samples are dealt
            anew, so that captions of alike length share a batch; None for none.
        max_bad_fraction: Bad samples that are replaced before the run ends, as a fraction of all.
        max_bad_shards: Bad shards that are left out before the run ends.
        fault_log: File that names every bad sample and shard.
        mixture: Instead of ``train``: several sources, mixed in exact proportions.
        samples_per_class: Train on so many samples of each class, chosen by ``seed``; None for all.
        balance_classes: Train on every class equally often.
        fields: What else the samples bring for the objective, such as ``clipkit.data.Group``.
        mixture_stages: Other weights of the mixture from some optimizer batches on: a curriculum.
        mixture_epoch_samples: Samples that count as an epoch of the mixture; None for all sources'
            samples together.
        cache: Where remote shards are kept, and how many bytes of them; None for the default.
        allow_pipe: Whether ``pipe:COMMAND`` among the shards may run a command of this machine.
        allow_outside: Whether the images of a table or folder may be outside of its folder,
            directly or by a symbolic link.

    Examples:
        >>> data = PairDataModule(train="data/train/{00000..00001}.tar", val="data/val")
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        batch_size: int = 64,
        batch_size_stages: list[BatchSizeStage] | None = None,
        val_batch_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        train_transform: ImageTransform | None = None,
        val_transform: ImageTransform | None = None,
        train_caption: CaptionPicker | None = None,
        val_caption: CaptionPicker | None = None,
        label_field: str = "cls",
        num_workers: int = 0,
        num_threads: int = 1,
        seed: int = 0,
        shuffle_window: int | None = None,
        length_window_batches: int | None = None,
        max_bad_fraction: float = 0.05,
        max_bad_shards: int = 0,
        fault_log: str | None = None,
        mixture: list[MixedSource] | None = None,
        samples_per_class: int | None = None,
        balance_classes: bool = False,
        fields: list[SampleField] | None = None,
        mixture_stages: list[Stage] | None = None,
        mixture_epoch_samples: int | None = None,
        cache: ShardCache | None = None,
        allow_pipe: bool = False,
        allow_outside: bool = False,
    ) -> None:
        super().__init__()
        self.train = train
        self.mixture = mixture
        self.mixture_stages = mixture_stages
        self.mixture_epoch_samples = mixture_epoch_samples
        self.access = Access(cache, allow_pipe, allow_outside)
        self.val = val
        self.batch_size = batch_size
        self.batch_size_stages = tuple(batch_size_stages or ())
        self.val_batch_size = batch_size if val_batch_size is None else val_batch_size
        self.tokenizer = tokenizer
        self.check_batch: Callable[[Batch], None] | None = None
        self.train_transform = train_transform
        self.val_transform = val_transform
        self.train_caption = train_caption
        self.val_caption = val_caption
        self.num_workers = num_workers
        self.seed = seed
        self.choice = Choice(samples_per_class, balance_classes, seed)
        self._shared: dict[str, Any] = {
            "label_field": label_field,
            "num_threads": num_threads,
            "fields": fields or (),
            "cache": cache,
        }
        self._training: dict[str, Any] = {
            "shuffle_window": shuffle_window,
            "length_window_batches": length_window_batches,
            "max_bad_fraction": max_bad_fraction,
            "max_bad_shards": max_bad_shards,
            "fault_log": fault_log,
        }
        self.class_names: tuple[str, ...] = ()
        self._train_stream: PairStream | None = None
        self._val_stream: PairStream | None = None

    def setup(self, stage: str) -> None:
        """Open the shards.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ClipkitError: If shards are missing or cannot be used.
        """
        if stage != "fit" and not self.val:
            raise ConfigError(f"data.val: {stage.lower()} needs shards of pairs, got none")
        self.class_names = self._named_classes(is_fit=stage == "fit")
        if stage == "fit" and self._train_stream is None:
            self._train_stream = self._open_train()
        if self.val and self._val_stream is None:
            self._val_stream = self._open_val(self.val)

    @property
    def train_stream(self) -> PairStream:
        """The stream of training batches, once ``setup`` has run."""
        assert self._train_stream is not None, "PairDataModule.setup('fit') has not run"
        return self._train_stream

    def train_dataloader(self) -> PairStream:
        """The stream itself: a ``DataLoader`` could not be resumed exactly."""
        return self.train_stream

    def val_dataloader(self) -> PairStream | list[Any]:
        """The stream of validation batches; nothing where there are no validation shards."""
        return self._val_stream or []

    def test_dataloader(self) -> PairStream | list[Any]:
        """As for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> PairStream | list[Any]:
        """As for validation."""
        return self.val_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Have the trained module check a batch while it is on the CPU."""
        if self.check_batch is not None and isinstance(batch, Batch):
            self.check_batch(batch)
        return batch

    def commit(self, batch: Batch) -> None:
        """This batch has been trained on."""
        self.train_stream.commit(batch)

    def begin_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; in the middle of that epoch already, stay there."""
        self.train_stream.set_epoch(epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of this process in the whole of the epoch of the next one."""
        return len(self.train_stream)

    def position(self) -> tuple[int, int, int]:
        """The epoch, its batches that are trained on, and all of them, as this run counts them."""
        state = self.train_stream.state_dict()
        epoch, position = state["epoch"], state["position"]
        return epoch, *self.train_stream.slicing.progress(epoch, position)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain types, the same on every rank; all ranks call this."""
        if self._train_stream is None:
            return {}
        self._train_stream.sync_faults()
        return {"train": self._train_stream.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go where the stream stood; the number of processes and the batch size may differ."""
        if self._train_stream is not None and "train" in state_dict:
            self._train_stream.load_state_dict(state_dict["train"])

    def _open_train(self) -> PairStream:
        return PairStream(
            open_data(
                self.train,
                self.mixture,
                self.choice,
                stages=self.mixture_stages,
                epoch_samples=self.mixture_epoch_samples,
                access=self.access,
                class_names=self.class_names,
            ),
            tokenizer=self.resolved_tokenizer(),
            batch_size=self.batch_size,
            batch_size_stages=self.batch_size_stages,
            seed=self.seed,
            image_transform=self._resolved_train_transform(),
            caption=self.train_caption,
            num_workers=self.num_workers,
            **self._shared,
            **self._training,
        )

    def _open_val(self, urls: str | list[str]) -> PairStream:
        # A class has the number that it has in training, also where validation lacks some classes.
        check_classes(urls, self.class_names, self.access)
        index = open_index(urls, self.class_names, self.access)
        return PairStream(
            index,
            tokenizer=self.resolved_tokenizer(),
            batch_size=self.val_batch_size,
            # Batches of nearly one size, because the loss depends on it; every sample is in one.
            tail="even",
            shuffle=False,
            image_transform=self._resolved_val_transform(),
            caption=self.val_caption,
            **self._shared,
        )

    def _named_classes(self, is_fit: bool) -> tuple[str, ...]:
        """Names by number of the training data, if they are there; else of the validation data."""
        if self._shared["label_field"] != "cls":
            return ()  # names belong to the numbers in .cls
        encoder = self._known_encoder()
        head = None if encoder is None else encoder.label_head
        known = () if head is None else head.class_names
        if is_fit or (isinstance(self.train, str) and is_raw(self.train)):
            return class_names_of(self.train, self.mixture, known, self.access)
        return class_names_of(self.val, None, known, self.access)

    def resolved_tokenizer(self) -> Tokenizer:
        """The tokenizer that was given, or the one that belongs to the text tower.

        Raises:
            ConfigError: If none was given and there is no encoder to ask.
        """
        if self.tokenizer is None:
            tower = self._encoder("tokenizer").text_tower
            self.tokenizer = tokenizer_from_name(tower.tokenizer_name, tower.context_length)
        if (encoder := self._known_encoder()) is not None:
            check_tokenizer(self.tokenizer, encoder.text_tower)
        return self.tokenizer

    def _resolved_train_transform(self) -> ImageTransform:
        if self.train_transform is None:
            tower = self._encoder("train_transform").image_tower
            return TrainTransform(tower.image_size, interpolation=tower.interpolation)
        return self._checked(self.train_transform)

    def _resolved_val_transform(self) -> ImageTransform:
        if self.val_transform is None:
            tower = self._encoder("val_transform").image_tower
            return EvalTransform(tower.image_size, tower.resize_mode, tower.interpolation)
        return self._checked(self.val_transform)

    def _checked(self, transform: ImageTransform) -> ImageTransform:
        if (encoder := self._known_encoder()) is not None:
            check_image_size(transform.image_size, encoder.image_tower)
        return transform

    def _encoder(self, option: str) -> DualEncoder:
        """The encoder in training, for what was left out."""
        encoder = self._known_encoder()
        if encoder is None:
            raise ConfigError(f"data.{option}: must be given where no DualEncoder is trained")
        return encoder

    def _known_encoder(self) -> DualEncoder | None:
        module = getattr(self.trainer, "lightning_module", None)
        encoder = getattr(module, "encoder", None)
        return encoder if isinstance(encoder, DualEncoder) else None
