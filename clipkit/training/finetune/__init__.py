"""Fine-tune a model with a configuration that is chosen from the data and explained."""

from clipkit.training.finetune.facts import BaseModelInfo, FinetuneData, inspect_data, inspect_model
from clipkit.training.finetune.run import FinetunePlan, finetune, plan_finetune
from clipkit.training.finetune.task_plan import TaskOptions, plan_task

__all__ = [
    "BaseModelInfo",
    "FinetuneData",
    "FinetunePlan",
    "TaskOptions",
    "finetune",
    "inspect_data",
    "inspect_model",
    "plan_finetune",
    "plan_task",
]
