"""Export trained encoders to open_clip, transformers, ONNX or safetensors, with a model card."""

from clipkit.export.checkpoint import ExportedModel, export_checkpoint, export_encoder
from clipkit.export.formats import FORMATS, Exporter
from clipkit.export.onnx import check_onnx, save_onnx
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
    "read_run",
    "save_onnx",
    "to_transformers",
]
