"""Pin the revision of data sets on the Hub in the configuration of a run."""

from __future__ import annotations

from typing import Any

from clipkit.data.packing.hub import pinned


def pin_hub_data(data: Any) -> None:
    """Replace ``hf://datasets/OWNER/NAME`` in the section ``data`` by an address with a commit.

    The configuration that a run stores then names the same bytes, also after the data set changed.
    """
    for option in ("train", "val"):
        data[option] = _pinned(data[option])
    for source in data["mixture"]["sources"]:
        source["urls"] = _pinned(source["urls"])


def _pinned(urls: Any) -> Any:
    if isinstance(urls, str):
        return pinned(urls)
    return [pinned(url) for url in urls] if isinstance(urls, list) else urls
