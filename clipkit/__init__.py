"""clipkit: exact, label-aware CLIP pretraining, fine-tuning and evaluation."""

__version__ = "0.1.0"
