"""The hub that ``HF_ENDPOINT`` names, in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from clipkit.export import export_encoder
from tests.helpers import tiny
from tests.helpers.hub import hub_server

CODE = """
import sys
from clipkit.errors import ConfigError
from clipkit.models import load_encoder
for name in sys.stdin:
    try:
        texts, _ = load_encoder(name.strip()).encode(["a dog"])
        print(tuple(texts.shape), flush=True)
    except ConfigError as error:
        print(error, flush=True)
"""


@contextmanager
def loader(tmp_path, **environment) -> Iterator[Callable[[str], str]]:
    """Start a process; yields a function that returns what it prints for a model."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", **environment},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def load(name: str) -> str:
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        yield load
    finally:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_the_environment_names_hub_and_cache(tmp_path):
    export_encoder(tiny.encoder(), tmp_path / "out")
    with ExitStack() as listening:
        hub = listening.enter_context(hub_server())
        hub.add("me/tiny", tmp_path / "out")
        with loader(tmp_path, HF_ENDPOINT=hub.url) as load:
            assert load("hf-hub:me/tiny") == "(1, 16)"
            assert hub.requests
            listening.close()  # nobody listens there any more
            assert load("hf-hub:me/tiny") == "(1, 16)"
    with loader(tmp_path, HF_HUB_OFFLINE="1") as load:
        assert load("hf-hub:me/tiny") == "(1, 16)"
        message = load("hf-hub:me/other")
    assert message.startswith("hf-hub:me/other: clipkit_encoder.json or open_clip_config.json is")
    assert "not in the cache, and the hub cannot be reached" in message
