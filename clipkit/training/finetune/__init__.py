"""Fine-tune a model with a configuration that is chosen from the data and explained."""

from clipkit.training.finetune.facts import BaseModelInfo, FinetuneData, inspect_data, inspect_model
from clipkit.training.finetune.run import FinetunePlan, finetune, plan_finetune

__all__ = [
    "BaseModelInfo",
    "FinetuneData",
    "FinetunePlan",
    "finetune",
    "inspect_data",
    "inspect_model",
    "plan_finetune",
]
