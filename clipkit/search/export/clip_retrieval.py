"""Export a collection as the embeddings that clip-retrieval reads.

Its inference writes, and its index and its server read, three folders of files with one number
each: ``img_emb/img_emb_0.npy`` and ``text_emb/text_emb_0.npy``, unit vectors in float16 [N, D], and
``metadata/metadata_0.parquet`` with the columns ``image_path``, ``caption`` and any others. The
n-th row of the three is one sample. Files are read in the order of their names, so that numbers
have as many digits as the number of files (``OutputSink`` in ``clip_inference/writer.py``,
``ParquetMetadataProvider`` in ``clip_back.py``, clip-retrieval 2.45).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float16

from clipkit.atomic_files import new_folder
from clipkit.collection import Collection
from clipkit.collection.arrow import arrow
from clipkit.errors import ConfigError
from clipkit.search.export.shard_export import ShardExport, read_shard

_COLUMNS: Final = ("key", "captions", "label")
_JSON_FIELD: Final = "json:"


def export_clip_retrieval(
    collection: Collection,
    output: Path | str,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> int:
    """Write the files of clip-retrieval, those of a shard with one number.

    A sample has one caption there: the first one. Samples without an embedding are left out; the
    text of a sample without a caption is empty, and its embedding zeros.

    Args:
        collection: The collection.
        output: Folder that does not exist yet, or is empty; it appears when it is complete.
        on_progress: Called with the numbers of completed and of all samples; None for no call.

    Returns:
        Number of samples that were written.

    Raises:
        ConfigError: If the folder contains files.
        DataError: If a file of the collection is missing or damaged.
        OSError: If the files cannot be written.

    Examples:
        >>> export_clip_retrieval(Collection("collection"), "exported")
        8
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output: expected a new or empty folder, got {folder} with files")
    num_digits = len(str(len(collection.shards)))
    num_samples = 0
    with new_folder(folder) as temporary:
        for number in range(len(collection.shards)):
            shard = read_shard(collection, number, (*_COLUMNS, *collection.info.columns))
            texts = _texts(collection, number, shard) if collection.info.has_texts else None
            _write(temporary, f"{number:0{num_digits}d}", shard, texts)
            num_samples += len(shard.rows)
            if on_progress is not None:
                on_progress(int(collection.starts[number + 1]), len(collection))
    return num_samples


def _texts(
    collection: Collection, number: int, shard: ShardExport
) -> Float16[np.ndarray, "rows D"]:
    """Return the embedding of the first caption of each sample; zeros if it has none."""
    files = collection.shards[number]
    starts, texts = files.text_starts(), files.texts()
    first, has_text = starts[shard.places], np.diff(starts)[shard.places] > 0
    found = np.zeros((len(shard.places), collection.info.embedding_dim), dtype=np.float16)
    found[has_text] = texts[first[has_text]]
    return found


def _write(
    folder: Path, number: str, shard: ShardExport, texts: Float16[np.ndarray, "rows D"] | None
) -> None:
    pa = arrow()
    arrays = {"img_emb": shard.images}
    if texts is not None:
        arrays["text_emb"] = texts
    for name, array in arrays.items():
        (folder / name).mkdir(exist_ok=True)
        np.save(folder / name / f"{name}_{number}.npy", array)
    (folder / "metadata").mkdir(exist_ok=True)
    pa.parquet.write_table(
        _metadata(shard.table), folder / "metadata" / f"metadata_{number}.parquet"
    )


def _metadata(table: Any) -> Any:
    """Return the table of the metadata; fields of JSON members have their own names."""
    pa = arrow()
    captions = [texts[0] if texts else "" for texts in table.column("captions").to_pylist()]
    columns = {
        "image_path": table.column("key"),
        "caption": pa.array(captions, type=pa.string()),
        "label": table.column("label"),
    }
    for name in table.column_names:
        own = name.removeprefix(_JSON_FIELD)
        if name not in _COLUMNS:
            columns[name if own in columns or own in table.column_names else own] = table.column(
                name
            )
    return pa.table(columns)
