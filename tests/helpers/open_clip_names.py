"""Names of open_clip configurations that exist for the length of a block only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def named_config(path: Path) -> Iterator[str]:
    """Make ``open_clip.create_model`` know a configuration by its file's name, within the block.

    open_clip keeps names for the whole process, where tests that list them would see them too.
    """
    from open_clip import factory

    paths, configs = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    try:
        factory.add_model_config(path)
        yield path.stem
    finally:
        factory._MODEL_CONFIG_PATHS[:] = paths
        factory._MODEL_CONFIGS = configs
