"""Upload an exported folder to the Hugging Face hub, in one commit that is checked afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Final

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from clipkit import __version__
from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.hub import HUB_PREFIX

MODEL_SUFFIXES: Final = frozenset({".json", ".safetensors", ".onnx", ".data", ".bin", ".model"})
"""Suffixes of files from which a model is loaded."""
_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")
_LOGIN: Final = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_login(repository: str) -> None:
    """Check the name of a repository, and that the user is logged in, before any work is done.

    Args:
        repository: OWNER/NAME.

    Raises:
        ConfigError: If the name is malformed, there is no token, the hub does not accept it, or
            the hub cannot be reached.
    """
    if not _NAME.fullmatch(repository):
        raise ConfigError(f"push: expected OWNER/NAME, got {repository!r}")
    with _hub_errors(repository, "check the network, HF_HUB_OFFLINE and HF_ENDPOINT"):
        HfApi().whoami()


def push_to_hub(folder: Path | str, repository: str, *, private: bool = False) -> str:
    """Upload the files of an export; a missing repository is created.

    All files arrive in one commit on the branch ``main``, or none does. Files of the same names are
    replaced, the model card included.

    Args:
        folder: Folder that ``export_checkpoint`` or ``export_encoder`` wrote.
        repository: OWNER/NAME.
        private: Whether a new repository is private, and an existing one must be.

    Returns:
        ``hf-hub:OWNER/NAME``, the name that clipkit and open_clip load it by.

    Raises:
        ConfigError: If the user is not logged in or may not write, the existing repository is
            public or contains another model, or the upload fails.
        CheckpointError: If files on the hub have other sizes than those of the folder.

    Examples:
        >>> exported = export_encoder(encoder, "export", "safetensors")
        >>> push_to_hub(exported.folder, "OWNER/NAME", private=True)  # doctest: +SKIP
        'hf-hub:OWNER/NAME'
    """
    folder = Path(folder)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not _is_left_out(path.relative_to(folder))
    }
    if not sizes.keys() & {"README.md"}:
        raise ConfigError(f"{folder}: expected a folder that clipkit export wrote, with README.md")
    check_login(repository)
    api = HfApi()
    with _hub_errors(repository, f"the files are kept in {folder}, push again"):
        api.create_repo(repository, private=private or None, exist_ok=True)
        existing = api.model_info(repository)
        _check_existing(repository, existing.private, _names(existing), sizes, private)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Export of clipkit {__version__}",
        )
        uploaded = api.model_info(repository, revision=commit.oid, files_metadata=True)
    uploaded_sizes = {file.rfilename: file.size for file in uploaded.siblings or []}
    if wrong := [name for name, size in sizes.items() if uploaded_sizes.get(name) != size]:
        raise CheckpointError(
            f"push {repository}: {wrong[0]}: expected {sizes[wrong[0]]} bytes on the hub, got "
            f"{uploaded_sizes.get(wrong[0])}; push again"
        )
    return f"{HUB_PREFIX}{repository}"


def _is_left_out(path: PurePath) -> bool:
    """Return whether huggingface_hub uploads no such file: of git, or of its own downloads."""
    parts = path.parts
    return ".git" in parts or (".cache", "huggingface") in pairwise(parts)


def _names(info: object) -> set[str]:
    return {file.rfilename for file in getattr(info, "siblings", None) or []}


def _check_existing(
    repository: str, is_private: bool | None, names: set[str], sizes: dict[str, int], private: bool
) -> None:
    """Refuse a public repository for a private model, and one that contains another model."""
    if private and not is_private:
        raise ConfigError(
            f"push {repository}: expected a private repository, but it exists and is public; "
            f"choose another one, or change it in its settings; nothing was uploaded"
        )
    others = sorted(name for name in names - sizes.keys() if Path(name).suffix in MODEL_SUFFIXES)
    if others:
        raise ConfigError(
            f"push {repository}: contains {others[0]!r}, which this export does not write, and "
            f"which may be loaded instead; delete it there, or choose another repository; nothing "
            f"was uploaded"
        )


@contextmanager
def _hub_errors(repository: str, advice: str) -> Iterator[None]:
    """Turn errors of the hub and the network into a ``ConfigError``."""
    where = f"push {repository}"
    try:
        yield
    except (ConfigError, CheckpointError):
        raise
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"{where}: no token found; {_LOGIN}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401 or isinstance(error, RepositoryNotFoundError):
            reason = f"the hub does not accept the token, or it may not read this; {_LOGIN}"
        elif status == 403:
            reason = f"the token may not write there ({error.server_message}); {_LOGIN}"
        else:
            reason = f"not completed: {first_line(error)}; {advice}"
        raise ConfigError(f"{where}: {reason}") from error
    except Exception as error:  # of the network, the disk and the hub's checks, without a base
        raise ConfigError(
            f"{where}: not completed: {type(error).__name__}: {first_line(error)}; {advice}"
        ) from error
