"""The Lightning data module of image-text pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from lightning.pytorch import LightningDataModule

from clipkit.data import DevicePrefetcher, PairSource, PairStream
from clipkit.data.packing.packed_cache import is_raw
from clipkit.data.samples.faults import FaultOptions
from clipkit.data.stream.options import OrderOptions, SampleOptions
from clipkit.data.text.captions import CaptionPicker
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import ConfigError
from clipkit.models import TowerEncoder
from clipkit.renamed_arguments import renamed_arguments
from clipkit.training.checks.options import check_tokenizer
from clipkit.training.checks.ranks import check_same_data
from clipkit.training.datamodule.options import (
    RENAMED,
    MixtureOptions,
    PairOptions,
    StorageOptions,
    ValidationOptions,
    WebDatasetOptions,
)
from clipkit.training.datamodule.sources import (
    check_addresses,
    check_classes,
    class_names_of,
    open_data,
    open_index,
    webdataset_shards,
)
from clipkit.training.datamodule.transforms import (
    decoder_for,
    required_encoder,
    train_transform_for,
    val_transform_for,
)
from clipkit.types import Batch


@final
class PairDataModule(LightningDataModule):
    """Reads shards of pairs, in an order that resumes exactly.

    Defaults are taken from the encoder that is trained: the tokenizer of its text tower, and
    transforms for the size of its image tower.

    Args:
        train: Shards to train on: a path, URL, pattern with braces or ``*``, or several of them; or
            a table or folder of images, which is packed once into a cache next to it. A
            ``datasets.Dataset`` must be packed first; see ``clipkit.data.pack``.
        val: Shards, table or folder to validate on; None for no validation.
        batch_size: Number of pairs in a training batch of one process; N processes train on N times
            as many per step.
        tokenizer: Encodes the captions; None for the tokenizer of the text tower.
        seed: Seed for the sample order, the augmentation and the selection of captions.
        num_workers: Number of processes that build batches, those of validation while it runs; 0
            builds them in the training process.
        samples: Selection and content of training samples.
        validation: Options of validation that differ from training.
        order: Shuffling, and batch sizes at the start of a run. Steps in ``max_steps`` and
            schedules are steps of ``batch_size``, also while its batches are smaller.
        faults: How many bad samples and shards are allowed in training, and where they are logged.
        storage: How shards, tables and images are read.
        mixture: Several training sources instead of ``train``.

    Raises:
        ConfigError: If training is to run without shuffling.

    Examples:
        >>> data = PairDataModule(train="data/train/{00000..00001}.tar", val="data/val")
    """

    @renamed_arguments(RENAMED)
    def __init__(
        self,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        batch_size: int = 64,
        tokenizer: Tokenizer | None = None,
        seed: int = 0,
        num_workers: int = 0,
        samples: PairOptions = PairOptions(),
        validation: ValidationOptions = ValidationOptions(),
        order: OrderOptions = OrderOptions(),
        faults: FaultOptions = FaultOptions(),
        storage: StorageOptions = StorageOptions(),
        mixture: MixtureOptions = MixtureOptions(),
    ) -> None:
        super().__init__()
        if not order.shuffle or order.tail not in (None, "drop"):
            raise ConfigError(
                f"data.order: training needs shuffle=true and tail=drop, got shuffle="
                f"{str(order.shuffle).lower()} and tail={order.tail}; omit them"
            )
        check_addresses("data.train", train)
        check_addresses("data.val", val)
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.tokenizer = tokenizer
        self.seed = seed
        self.num_workers = num_workers
        self.samples = samples
        self.validation = validation
        self.order = order
        self.faults = faults
        self.storage = storage
        self.mixture = mixture
        self.check_batch: Callable[[Batch], None] | None = None
        self.class_names: tuple[str, ...] = ()
        self._train_stream: PairSource | None = None
        self._val_stream: PairStream | None = None

    def setup(self, stage: str) -> None:
        """Open the shards.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ClipkitError: If shards are missing or cannot be used, or ranks see different ones.
        """
        if stage != "fit" and not self.val:
            raise ConfigError(f"data.val: {stage.lower()} needs shards of pairs, got none")
        self.class_names = self._named_classes(is_fit=stage == "fit")
        if stage == "fit" and self._train_stream is None:
            self._train_stream = self._open_train()
            check_same_data(self._train_stream, "data.train")
        if stage == "fit" and self._train_stream is not None:
            self._train_stream.set_image_sizes(())  # those of an earlier fit
        if self.val and self._val_stream is None:
            self._val_stream = self._open_val(self.val)
            check_same_data(self._val_stream, "data.val")

    @property
    def train_stream(self) -> PairSource:
        """Return the stream of training batches, after ``setup``."""
        assert self._train_stream is not None, "PairDataModule.setup('fit') has not run"
        return self._train_stream

    def train_dataloader(self) -> PairSource | DevicePrefetcher:
        """Return the stream, because a ``DataLoader`` cannot be resumed exactly.

        On a CUDA device its next batch is copied during each step.
        """
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        decoder = decoder_for(self.samples.transform, device)
        if device.type != "cuda" and decoder is None:
            return self.train_stream
        return DevicePrefetcher(self.train_stream, device, self._check, decoder)

    def val_dataloader(self) -> PairStream | list[Any]:
        """Return the stream of validation batches; an empty list without validation data."""
        return self._val_stream or []

    def test_dataloader(self) -> PairStream | list[Any]:
        """Do the same as for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> PairStream | list[Any]:
        """Do the same as for validation."""
        return self.val_dataloader()

    def teardown(self, stage: str) -> None:
        """End the worker processes."""
        for stream in (self._train_stream, self._val_stream):
            if stream is not None:
                stream.close()

    def end_validation(self) -> None:
        """End the workers of a validation that did not read all of its data."""
        if self._val_stream is not None:
            self._val_stream.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the worker processes of a run that failed."""
        self.teardown("")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Let the module check a batch on the CPU; one that is prefetched was checked there."""
        if isinstance(batch, Batch) and batch.labels.device.type == "cpu":
            self._check(batch)
        return batch

    def _check(self, batch: Batch) -> None:
        if self.check_batch is not None:
            self.check_batch(batch)

    def commit(self, batch: Batch) -> None:
        """Record that a batch has been trained on."""
        self.train_stream.commit(batch)

    def begin_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch; a position within that epoch stays."""
        self.train_stream.set_epoch(epoch)

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of training batches of this process in the next batch's epoch."""
        return len(self.train_stream)

    def position(self) -> tuple[int, int, int]:
        """Return the epoch, and the numbers of its completed batches and of all its batches."""
        epoch, position = self.train_stream.place
        return epoch, *self.train_stream.partition.progress(epoch, position)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stream, the same on every rank; all ranks call this."""
        if self._train_stream is None:
            return {}
        self._train_stream.sync_faults()
        return {"train": self._train_stream.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the stream; the number of processes and the batch size may differ."""
        if self._train_stream is not None and "train" in state_dict:
            self._train_stream.load_state_dict(state_dict["train"])

    def _open_train(self) -> PairSource:
        if self.storage.webdataset != WebDatasetOptions():
            return self._open_webdataset()
        data = open_data(
            self.train, self.mixture, self.samples, self.seed, self.storage, self.class_names
        )
        return PairStream(
            data,
            tokenizer=self.resolved_tokenizer(),
            batch_size=self.batch_size,
            seed=self.seed,
            image_transform=train_transform_for(self.samples.transform, self._known_encoder()),
            num_workers=self.num_workers,
            order=self.order,
            samples=self._sample_options(self.samples.caption),
            faults=self.faults,
        )

    def _open_webdataset(self) -> PairSource:
        from clipkit.data import WebDatasetSource  # with webdataset, which few runs need

        return WebDatasetSource(
            webdataset_shards(self.train, self.mixture, self.samples, self.storage),
            tokenizer=self.resolved_tokenizer(),
            batch_size=self.batch_size,
            seed=self.seed,
            image_transform=train_transform_for(self.samples.transform, self._known_encoder()),
            num_workers=self.num_workers,
            order=self.order,
            samples=self._sample_options(self.samples.caption),
            faults=self.faults,
        )

    def _open_val(self, urls: str | list[str]) -> PairStream:
        # Class numbers are those of training, also if validation lacks some classes.
        check_classes(urls, self.class_names, self.storage)
        size = self.validation.batch_size
        return PairStream(
            open_index(urls, self.class_names, self.storage),
            tokenizer=self.resolved_tokenizer(),
            batch_size=self.batch_size if size is None else size,
            image_transform=val_transform_for(self.validation.transform, self._known_encoder()),
            num_workers=self.num_workers,
            # Batches of nearly equal size, because the loss depends on it; with all samples.
            order=OrderOptions(shuffle=False, tail="even"),
            samples=self._sample_options(self.validation.caption).for_evaluation(),
        )

    def _sample_options(self, caption: CaptionPicker | None) -> SampleOptions:
        options = self.samples
        return SampleOptions(caption, options.label_field, options.fields, options.num_threads)

    def _named_classes(self, is_fit: bool) -> tuple[str, ...]:
        """Return the class names of the training data; if it has none, of the validation data.

        A field that sets the labels names them, too.
        """
        if named := [field.class_names for field in self.samples.fields if field.class_names]:
            return tuple(named[-1])
        if self.samples.label_field != "cls":
            return ()  # the names are for the numbers in .cls
        encoder = self._known_encoder()
        head = None if encoder is None else encoder.label_head
        known = () if head is None else head.class_names
        if is_fit or (isinstance(self.train, str) and is_raw(self.train)):
            return class_names_of(self.train, self.mixture.sources, known, self.storage)
        return class_names_of(self.val, (), known, self.storage)

    def resolved_tokenizer(self) -> Tokenizer:
        """Return the specified tokenizer, or that of the text tower.

        Raises:
            ConfigError: If neither a tokenizer nor an encoder is specified.
        """
        if self.tokenizer is None:
            tower = required_encoder("tokenizer", self._known_encoder()).text_tower
            self.tokenizer = tokenizer_from_name(tower.tokenizer_name, tower.context_length)
        if (encoder := self._known_encoder()) is not None:
            check_tokenizer(self.tokenizer, encoder.text_tower)
        return self.tokenizer

    def _known_encoder(self) -> TowerEncoder | None:
        module = getattr(self.trainer, "lightning_module", None)
        encoder = getattr(module, "encoder", None)
        return encoder if isinstance(encoder, TowerEncoder) else None
