"""Resolve and check configurations with the parser of ``clipkit fit``."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from clipkit.cli.fit.trainer_cli import run_trainer


def resolve_config(words: Sequence[str]) -> dict[str, Any]:
    """Return what ``clipkit fit --print_config`` prints, as plain types."""
    with redirect_stdout(io.StringIO()) as text:
        run_trainer("fit", [*words, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(text.getvalue())
    return config


def check_config(config: Mapping[str, Any]) -> None:
    """Check that ``clipkit fit`` accepts a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        resolve_config(["-c", str(path)])
