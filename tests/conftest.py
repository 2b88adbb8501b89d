"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.tiers import FAST, LONG, STARTS, forbid_slow_starts

if TYPE_CHECKING:
    from tests.helpers.hub import FakeHub

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set tiers by folder, so that none is forgotten; `make test-fast` names its folders itself."""
    for item in items:
        if folder_of(item) in LONG:
            item.add_marker(pytest.mark.long)
    # Modules of long tests first, so that no process is left alone with one at the end.
    items.sort(key=lambda item: folder_of(item) not in (*LONG, *STARTS))


def pytest_collection_finish() -> None:
    """Leave modules and tests out of later collections of garbage."""
    gc.collect()
    gc.freeze()


def folder_of(item: pytest.Item) -> str:
    """Return the folder below tests/ that holds a test, or its file where there is none."""
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(autouse=True)
def _only_quick_starts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder_of(request.node) in FAST:
        forbid_slow_starts(monkeypatch)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """Files outlive a killed process without it, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of ``tiny.shards``, which all tests share and none writes into."""
    from tests.helpers import tiny

    return tiny.shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real files that CLIPKIT_REAL_DATA names; skips where it is absent."""
    folder = os.environ.get("CLIPKIT_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CLIPKIT_REAL_DATA does not name a folder of real files")
    return Path(folder)


@pytest.fixture
def s3_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A real S3 server on loopback that boto and fsspec find by their environment."""
    from tests.helpers.ranks import free_port  # it imports torch, which many tests do not need

    moto = pytest.importorskip("moto.server")
    s3 = pytest.importorskip("s3fs").S3FileSystem
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3.clear_instance_cache()  # they keep the endpoint of the server before
    yield os.environ["AWS_ENDPOINT_URL"]
    server.stop()
    s3.clear_instance_cache()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub on loopback that huggingface_hub talks to, with an empty cache and no token."""
    from huggingface_hub import constants

    from tests.helpers.hub import hub_server

    with hub_server() as server:
        pattern = "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{server.url}{pattern}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        }.items():
            # they are read once, at the import; old versions lack some
            monkeypatch.setattr(constants, name, value, raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
