"""Parquet files of data sets on the Hugging Face Hub, at a pinned revision."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from clipkit.data.packing.tables.parts import beginning_of
from clipkit.errors import DataError

_LOG: Final = logging.getLogger(__name__)
_PARQUET_BRANCH: Final = "refs/convert/parquet"
"""Branch on which the Hub stores every public data set as Parquet: CONFIG/SPLIT/0000.parquet."""
_ADDRESS: Final = re.compile(
    r"hf:/{1,2}datasets/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/convert/\w+|refs/pr/\d+|[^/@:*?{}]+))?"
    r"(/(?P<path>([^:*?{}]|:(?!:))*|((?!::).)*\.parquet))?"
)
_PARTIAL: Final = "partial-"
"""Beginning of the names of splits that the Hub converts in part, because they are too large."""
_COMMIT: Final = re.compile("[0-9a-f]{40}")
_OTHER_FILES: Final = (".tar", ".json", ".npz")
_SUFFIX: Final = ".parquet"
_NUMBER: Final = re.compile(r"[-_.]?\d+$")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Parquet files of a data set on the Hub.

    Args:
        repo: ``OWNER/NAME``.
        revision: Branch, tag or commit; None for the newest commit of the Parquet branch.
        path: Folder with the files, ``CONFIG/SPLIT`` on the Parquet branch; the beginning of their
            names, such as ``data/train``; or a glob, ``data/*.parquet``. "" if there is one split.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf://datasets/{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def hub_address(source: str | Path) -> HubAddress | None:
    """Parse ``hf://datasets/OWNER/NAME[@REVISION][/CONFIG/SPLIT]``; None for anything else.

    Shards on the Hub (``hf://.../{0..9}.tar``) are no tables, and are opened by fsspec. The
    third part is a folder, the beginning of names of files, or a glob of Parquet files.

    Examples:
        >>> hub_address("hf://datasets/owner/cats/default/train")
        HubAddress(repo='owner/cats', revision=None, path='default/train')
        >>> hub_address("hf://datasets/owner/cats/00000.tar") is None
        True
    """
    match = _ADDRESS.fullmatch(str(source))  # pathlib makes one slash of two
    if match is None or str(source).endswith(_OTHER_FILES):
        return None
    return HubAddress(match["repo"], match["revision"], (match["path"] or "").strip("/"))


def pinned(source: str) -> str:
    """Return the address of a data set on the Hub with its commit and split; other texts as is.

    Raises:
        DataError: If the Hub does not answer, or the data set has several splits and none is named.
    """
    address = hub_address(source)
    return source if address is None else str(_pin(address))


def download_parquet(address: HubAddress) -> tuple[list[Path], list[str]]:
    """Download the Parquet files of an address into the cache of huggingface_hub.

    Returns:
        The files, in order, and a text for each that identifies its content.

    Raises:
        DataError: If the Hub does not answer, or there are no such files, or they are of several
            splits.
    """
    from huggingface_hub import snapshot_download

    exact = _pin(address)
    patterns = _patterns(exact.path)
    folder = Path(
        _ask(
            exact,
            lambda: snapshot_download(
                exact.repo, repo_type="dataset", revision=exact.revision, allow_patterns=patterns
            ),
        )
    )
    if exact.path.rpartition("/")[2].startswith(_PARTIAL):
        _LOG.warning(
            "%s: the Hub converted only the first part of this split; the complete files may be on "
            "the main branch: hf://datasets/%s@main/FOLDER",
            exact,
            exact.repo,
        )
    found = {f.relative_to(folder).as_posix() for p in patterns for f in folder.glob(p)}
    if not found:
        raise DataError(f"{exact}: no Parquet files there; expected /CONFIG/SPLIT after the name")
    names = _one_split(replace(address, path=exact.path), found)
    return [folder / name for name in names], [f"{exact.repo}@{exact.revision}/{n}" for n in names]


def download_files(address: HubAddress, patterns: Sequence[str]) -> Path:
    """Download files of a data set as they are stored into the cache of huggingface_hub.

    Args:
        address: The data set; its revision is the branch main unless it names one.
        patterns: Globs of the names of the files.

    Returns:
        The folder with the files.

    Raises:
        DataError: If the Hub does not answer.
    """
    from huggingface_hub import snapshot_download

    exact = replace(address, revision=address.revision or "main")
    folder = _ask(
        exact,
        lambda: snapshot_download(
            exact.repo, repo_type="dataset", revision=exact.revision, allow_patterns=list(patterns)
        ),
    )
    return Path(folder) / exact.path


def _pin(address: HubAddress) -> HubAddress:
    from huggingface_hub import HfApi

    named = address
    if address.revision is None or not _COMMIT.fullmatch(address.revision):
        branch = address.revision or _PARQUET_BRANCH
        info: Any = _ask(address, lambda: HfApi().dataset_info(address.repo, revision=branch))
        address = replace(address, revision=str(info.sha))
        _LOG.info("%s: using this commit of %s", address, branch)
    if not address.path:
        commit = address.revision
        names: Sequence[str] = _ask(
            address,
            lambda: HfApi().list_repo_files(address.repo, revision=commit, repo_type="dataset"),
        )
        address = replace(address, path=_only_split(named, names))
        if hub_address(str(address)) != address:
            raise DataError(
                f"{address}: cannot be named as an address; expected a folder without the "
                f"characters * ? {{ }} and ::; download the files: hf download --repo-type dataset "
                f"{address.repo}"
            )
    return address


def _patterns(path: str) -> list[str]:
    """Return the globs of a path's files, which match some files of other splits too."""
    if path.endswith(_SUFFIX):
        return [path]
    exact = glob.escape(path)
    return [f"{exact}{_SUFFIX}", f"{exact}/*{_SUFFIX}", f"{exact}[-_.0-9]*{_SUFFIX}"]


def _split_of(name: str) -> str:
    """Return the path that names the split of a file: its folder, or its name without the number.

    Examples:
        >>> _split_of("default/train/0000.parquet"), _split_of("data/train-00000-of-00002.parquet")
        ('default/train', 'data/train')
    """
    folder, _, file = name.rpartition("/")
    stem = file.removesuffix(_SUFFIX)
    beginning = beginning_of(stem)
    if beginning is None:
        beginning = _NUMBER.sub("", stem)
    return "/".join(part for part in (folder, beginning) if part)


def _one_split(address: HubAddress, names: Collection[str]) -> list[str]:
    """Return the files of the split that an address names, in order."""
    by_name = {name: _split_of(name) for name in sorted(names)}
    if address.path in by_name.values():
        return [name for name, split in by_name.items() if split == address.path]
    if not address.path.endswith(_SUFFIX) and len(set(by_name.values())) > 1:
        raise _several_splits(address, set(by_name.values()))
    return list(by_name)


def _only_split(address: HubAddress, names: Sequence[str]) -> str:
    """Return the path of all Parquet files of a revision."""
    splits = {_split_of(name) for name in names if name.endswith(_SUFFIX)}
    if len(splits) != 1 or "" in splits:
        raise _several_splits(address, splits)
    return splits.pop()


def _several_splits(address: HubAddress, splits: Collection[str]) -> DataError:
    root = replace(address, path="")
    shown = ", ".join(f"{root}/{split}" for split in sorted(splits) if split) or "none"
    together = f"{address}/*{_SUFFIX}"
    return DataError(
        f"{address}: expected one split, got several or none; name one of: {shown}; or the files "
        f"that are one table: {together}"
    )


def _ask(address: HubAddress, action: Callable[[], T]) -> T:
    """Call the Hub; its errors, and those of its transport, have no common base."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return action()
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{address}: no such data set on the Hub, or no access to it; for a private or gated "
            f"one log in: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"{address}: no revision {address.revision or _PARQUET_BRANCH}; the Hub converts "
            f"public data sets to Parquet by itself; for others name a revision that contains "
            f"Parquet files: hf://datasets/{address.repo}@main/FOLDER"
        ) from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{address}: cannot be read from the Hub: {reason}") from error
