"""Write the embeddings of ``clipkit predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from clipkit.atomic_files import new_file


@final
class WriteEmbeddings(BasePredictionWriter):
    """Writes the predicted embeddings of each rank to ``embeddings.rankN.npz`` in the run's folder.

    The file contains ``keys``, and for each modality of the encoder, such as ``image``, ``text``
    and ``sound``, float32 of shape (samples, components). Where samples may lack one, it is zeros,
    and a mask such as ``sound_present`` says which samples have it. ``matching`` is the logit of a
    joint encoder that the modalities of each sample belong together.
    ``clipkit embed`` also accepts other data and formats.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], *_: Any
    ) -> None:
        """Write the results of all batches."""
        keys = [key for prediction in predictions for key in prediction["keys"]]
        names = [name for name in next(iter(predictions), {}) if name != "keys"]
        joined = {
            name: torch.cat([prediction[name] for prediction in predictions]).numpy()
            for name in names
        }
        path = Path(trainer.default_root_dir) / embeddings_name(trainer.global_rank)
        # numpy would add .npz to a name without it
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, keys=np.array(keys), **joined)  # type: ignore[arg-type]  # its option


def embeddings_name(rank: int) -> str:
    """Return the name of the file of one rank in the run's folder."""
    return f"embeddings.rank{rank}.npz"
