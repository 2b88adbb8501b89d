"""Export trained encoders for other libraries, with a model card, and upload them to the hub."""

from clipkit.export.checkpoint import ExportedModel, export_checkpoint, export_encoder
from clipkit.export.formats import FORMATS, Exporter
from clipkit.export.onnx import check_onnx, save_onnx
from clipkit.export.push import push_to_hub
from clipkit.export.run_facts import RunFacts, read_run
from clipkit.export.transformers import to_transformers

__all__ = [
    "FORMATS",
    "ExportedModel",
    "Exporter",
    "RunFacts",
    "check_onnx",
    "export_checkpoint",
    "export_encoder",
    "push_to_hub",
    "read_run",
    "save_onnx",
    "to_transformers",
]
