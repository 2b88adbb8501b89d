"""Terms over two modalities of any number, each of which a sample may lack."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from jaxtyping import Bool
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.losses.label import LabelLoss, MultiLabelLoss
from clipkit.losses.term import LossTerm, Term
from clipkit.types import IGNORE_LABEL, Batch, Embeddings, PairSizes

_PAIR = ("image", "text")


@final
class ModalityPairLoss(LossTerm):
    """A contrastive loss between two modalities, over the samples of all ranks that have both.

    Each of ``CombinedLoss.terms`` may be one, with a weight or a schedule of its own: one per pair
    of modalities, or one per modality with an anchor, as in ImageBind (Girdhar et al. 2023,
    arXiv:2305.05665). A step in which no sample has both gives 0. The scale is that of the pair, if
    the encoder has one for it; ``batch.groups`` mark positives of every pair, ``batch.pair_mask``
    and negatives count for images with texts.

    Args:
        loss: A loss over pairs, such as ``ContrastiveLoss`` or ``SigmoidLoss``.
        first: Name of the modality in place of the image: "image", "text" or a further one.
        second: Name of the modality in place of the text.

    Raises:
        ConfigError: If the two are the same, or the encoder has no tower for one of them.

    Examples:
        >>> from clipkit.losses import ContrastiveLoss
        >>> from clipkit.types import ModalityEmbeddings
        >>> same = torch.eye(4)
        >>> sound = ModalityEmbeddings(same, present=torch.tensor([True, True, False, False]))
        >>> given = Embeddings(same, same, torch.tensor(100.0), modalities={"sound": sound})
        >>> term = ModalityPairLoss(ContrastiveLoss(), "sound", "text").term(given, None)
        >>> term.value.item(), term.num_samples.item()
        (0.0, 2.0)
    """

    def __init__(self, loss: LossTerm, first: str, second: str) -> None:
        super().__init__()
        if first == second:
            raise ConfigError(f"ModalityPairLoss: expected two modalities, got {first!r} twice")
        self.loss, self.first, self.second = loss, first, second
        self.modalities, self.reads_captions = (first, second), "text" in (first, second)

    @property
    def names(self) -> tuple[str, str]:
        """Names of both modalities in the order of the alphabet, as in ``Batch.num_joint``."""
        first, second = sorted((self.first, self.second))
        return first, second

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without one of the towers, and what the loss refuses."""
        self.loss.check(self._pair(embeddings)[0])

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse what the loss refuses; sample ids of pairs that are left out are checked too."""
        self.loss.check_batch(replace(batch, pair_mask=None), num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the samples of all ranks that have both modalities."""
        pair, both = self._pair(embeddings)
        is_given = both is None  # whether the pairs of the batch are those of this term
        self.loss.progress = self.progress
        if batch is None:
            if both is not None:
                pair = replace(pair, image=pair.image[both], text=_required(pair.text)[both])
            return self.loss.term(pair, None)
        if {self.first, self.second} == set(_PAIR):
            both = _joint(both, batch.pair_mask)
        else:
            is_given, batch = False, replace(batch, negatives=None)
        return self.loss.term(pair, replace(self._sized(batch, is_given), pair_mask=both))

    def _sized(self, batch: Batch, is_given: bool) -> Batch:
        """Put the numbers of samples that have both in place of those of images with texts.

        Where the texts are in place of the images, their negatives are counted as images are.

        Args:
            batch: Batch of this rank.
            is_given: Whether the samples that have both are the pairs of the batch, whose numbers
                it has already.
        """
        sizes = (batch.joint_sizes or {}).get(self.names)
        count = (batch.num_joint or {}).get(self.names)
        if is_given:
            sizes, count = sizes or batch.pair_sizes, batch.num_pairs if count is None else count
        if (self.second, self.first) == _PAIR and batch.negatives is not None:
            sizes = _exchanged(sizes)
        return replace(batch, num_pairs=count, pair_sizes=sizes)

    def _pair(self, embeddings: Embeddings) -> tuple[Embeddings, Bool[Tensor, " B"] | None]:
        """Return the two in place of image and text, and which samples have both; None for all."""
        image, has_first = embeddings.of(self.first)
        text, has_second = embeddings.of(self.second)
        scale, bias = embeddings.scale_of(self.first, self.second), embeddings.logit_bias
        pair = Embeddings(image, text, scale, bias)
        if (self.first, self.second) == _PAIR:
            pair.negative_image = embeddings.negative_image
            pair.negative_text = embeddings.negative_text
        elif (self.second, self.first) == _PAIR:
            pair.negative_image = embeddings.negative_text
            pair.negative_text = embeddings.negative_image
        return pair, _joint(has_first, has_second)


@final
class ModalityLabelLoss(LossTerm):
    """A loss over the labels of the samples that have a modality, by the label head on its tower.

    Args:
        loss: ``LabelLoss`` or ``MultiLabelLoss``.
        modality: Name of the modality; "image" for samples that may lack an image.

    Raises:
        ConfigError: If the encoder has no label head on that tower.
    """

    reads_captions = False

    def __init__(self, loss: LabelLoss | MultiLabelLoss, modality: str) -> None:
        super().__init__()
        self.loss, self.modality = loss, modality
        self.modalities, self.label_head = (modality,), modality
        self.reads_captions = modality == "text"

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a label head on that tower, and what the loss refuses."""
        self.loss.check(self._headed(embeddings))

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse what the loss refuses."""
        self.loss.check_batch(batch, num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the labelled samples of all ranks that have the modality."""
        self.loss.progress = self.progress
        _, present = embeddings.of(self.modality)
        if batch is not None and present is not None:
            labels = batch.labels.masked_fill(~present, IGNORE_LABEL)
            many = batch.multi_labels
            if many is not None:
                many = many.masked_fill(~present[:, None], IGNORE_LABEL)
            batch = replace(batch, labels=labels, multi_labels=many)
        return self.loss.term(self._headed(embeddings), batch)

    def _headed(self, embeddings: Embeddings) -> Embeddings:
        if self.modality == "image":
            return embeddings
        logits = (embeddings.head_logits or {}).get(self.modality)
        if logits is None:
            raise ConfigError(
                f"label loss: the encoder has no label head on its {self.modality}_tower; add one "
                f"to label_heads"
            )
        return replace(embeddings, label_logits=logits)


def _joint(
    first: Bool[Tensor, " B"] | None, second: Bool[Tensor, " B"] | None
) -> Bool[Tensor, " B"] | None:
    """Return which samples both masks keep; None for all."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _exchanged(sizes: PairSizes | None) -> PairSizes | None:
    """Return the sizes with images in place of texts; None if they are not known."""
    if sizes is None or sizes.negative_images is None:
        return None
    return PairSizes(sizes.pairs, sizes.negative_images, sizes.negative_texts)


def _required(text: Tensor | None) -> Tensor:
    assert text is not None, "_pair sets both"
    return text
