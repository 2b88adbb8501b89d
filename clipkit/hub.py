"""Files of models on the Hugging Face hub, by ``hf-hub:OWNER/NAME[@REVISION]``.

Downloaded files stay in the cache of ``huggingface_hub``, where they are found without a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clipkit.errors import ConfigError, first_line

HUB_PREFIX: Final = "hf-hub:"


def is_hub_name(name: object) -> bool:
    """Return whether a name is that of a model on the hub.

    Examples:
        >>> is_hub_name("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"), is_hub_name("ViT-B-32")
        (True, False)
    """
    return isinstance(name, str) and name.startswith(HUB_PREFIX)


def hub_file(name: str, *file_names: str) -> Path:
    """Return the first of some files that a repository has; it is downloaded if it is not cached.

    Args:
        name: ``hf-hub:OWNER/NAME``, with ``@REVISION`` for a branch, tag or commit.
        *file_names: Names of files, the preferred one first.

    Raises:
        ConfigError: If the name is malformed, the repository, its revision or all of the files are
            missing, or the hub cannot be reached and the cache does not have them.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repository, revision = _parts(name)
    misses: list[Exception] = []

    def is_cached(file_name: str) -> bool:
        path = try_to_load_from_cache(repository, file_name, revision=revision)
        return isinstance(path, str)

    try:  # without a network, the request for a file that is not cached takes many seconds
        file_names = tuple(sorted(file_names, key=is_cached, reverse=True))
    except HFValidationError as error:
        raise _refusal(name, repository, revision, error) from error
    for file_name in file_names:
        try:
            return Path(hf_hub_download(repository, file_name, revision=revision))
        except EntryNotFoundError as error:
            misses.append(error)
            if isinstance(error, LocalEntryNotFoundError):  # the hub cannot be reached
                break
        except Exception as error:  # of the hub, the network and the disk, without a common base
            raise _refusal(name, repository, revision, error) from error
    raise _no_file(name, file_names, misses) from misses[0]


def pinned(name: str, path: Path) -> str:
    """Return the name with the commit of a downloaded file as its revision.

    Args:
        name: Name of the model.
        path: A file of the cache, as ``hub_file`` returns it.

    Examples:
        >>> pinned("hf-hub:me/tiny@main", Path("models--me--tiny/snapshots/0a1b/model.safetensors"))
        'hf-hub:me/tiny@0a1b'
    """
    return f"{HUB_PREFIX}{_parts(name)[0]}@{path.parent.name}"


def _parts(name: str) -> tuple[str, str | None]:
    """Return the repository and the revision."""
    repository, at, revision = name.removeprefix(HUB_PREFIX).partition("@")
    owner, _, model = repository.partition("/")
    if not owner or not model or "/" in model or (at and not revision):
        raise ConfigError(
            f"{name}: expected {HUB_PREFIX}OWNER/NAME or {HUB_PREFIX}OWNER/NAME@REVISION"
        )
    return repository, revision or None


def _refusal(name: str, repository: str, revision: str | None, error: Exception) -> ConfigError:
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        reason = f"is no name of a repository: {first_line(error)}"
    elif isinstance(error, errors.GatedRepoError):
        reason = (
            "access to this repository must be granted; accept its conditions on its page, then "
            "log in with `hf auth login` or set HF_TOKEN"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = (
            f"the hub has no model {repository!r} that this user may read; check the name, and for "
            f"a private one log in with `hf auth login` or set HF_TOKEN"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = f"the repository has no branch, tag or commit {revision!r}"
    else:
        reason = f"cannot be downloaded: {type(error).__name__}: {first_line(error)}"
    return ConfigError(f"{name}: {reason}")


def _no_file(name: str, file_names: Sequence[str], misses: Sequence[Exception]) -> ConfigError:
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = " or ".join(file_names)
    if any(isinstance(error, LocalEntryNotFoundError) for error in misses):
        return ConfigError(
            f"{name}: {wanted} is not in the cache, and the hub cannot be reached (no network, or "
            f"HF_HUB_OFFLINE is set); load the model once with a network, or copy its files to "
            f"this machine and use the path of their folder"
        )
    return ConfigError(f"{name}: expected a repository with {wanted}, but it has no such file")
