"""The hub that ``HF_ENDPOINT`` names, in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from clipkit.export import export_encoder
from tests.helpers import tiny
from tests.helpers.hub import hub_server

CODE = """
import sys
from clipkit.errors import ConfigError
from clipkit.models import load_encoder
try:
    texts, _ = load_encoder(sys.argv[1]).encode(["a dog"])
    print(tuple(texts.shape))
except ConfigError as error:
    print(error)
"""


def load(name, tmp_path, **environment):
    """Return what the code prints for a model."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, name],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_environment_names_hub_and_cache(tmp_path):
    export_encoder(tiny.encoder(), tmp_path / "out")
    with hub_server() as hub:
        hub.add("me/tiny", tmp_path / "out")
        assert load("hf-hub:me/tiny", tmp_path, HF_ENDPOINT=hub.url) == "(1, 16)"
        assert hub.requests
    closed = {"HF_ENDPOINT": hub.url}  # nobody listens there any more
    assert load("hf-hub:me/tiny", tmp_path, **closed) == "(1, 16)"
    assert load("hf-hub:me/tiny", tmp_path, HF_HUB_OFFLINE="1") == "(1, 16)"
    message = load("hf-hub:me/other", tmp_path, HF_HUB_OFFLINE="1")
    assert message.startswith("hf-hub:me/other: clipkit_encoder.json or open_clip_config.json is")
    assert "not in the cache, and the hub cannot be reached" in message
