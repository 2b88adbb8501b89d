"""A small embedded collection with its shards and its model, as the server gets it."""

from __future__ import annotations

from pathlib import Path

from clipkit.collection.embedding import EmbedPlan, embed_collection, start_collection
from clipkit.models import save_encoder
from tests.helpers import tiny
from tests.helpers.factories import COLORS, write_shards


def write_served(folder: Path, counts=(9, 14)) -> Path:
    """Write ``model``, ``data`` and ``collection`` into a folder; return the collection."""
    encoder = tiny.encoder().eval()
    save_encoder(encoder, folder / "model")
    write_shards(folder / "data", counts)
    (folder / "data" / "classnames.txt").write_text("\n".join(COLORS))
    plan = EmbedPlan(
        str(folder / "model"), str(folder / "data"), folder / "collection", num_workers=0,
        columns=("json:color", "json:number"),
    )  # fmt: skip
    data = plan.open_data()
    info = start_collection(plan, encoder, None, data)
    embed_collection(plan, info, encoder, data)
    return folder / "collection"
