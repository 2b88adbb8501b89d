"""One shard of an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clipkit.data.storage.urls import Address

MAX_SAMPLES: Final = 2**40
"""Number of samples that no shard can have: their headers alone would take 512 TiB."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a data set.

    Args:
        address: Address of the tar.
        num_samples: Number of samples.
        size_bytes: Size in bytes; -1 if the server does not report it.
        stamp: Time of change (local, in ns) or entity tag (remote); "" if unknown.
        digest: ``ShardTable.digest`` of the table; "" if only the number of samples is known.
    """

    address: Address
    num_samples: int
    size_bytes: int = -1
    stamp: str = ""
    digest: str = ""

    @property
    def url(self) -> str:
        """Address as text, for messages and records."""
        return str(self.address)
