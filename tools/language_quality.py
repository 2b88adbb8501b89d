"""Recall by language of encoders that were trained with captions in one language or in all.

    python tools/language_quality.py EMOJI WORK

EMOJI has ``captions.csv`` (vendor, file, codepoint, name, keywords, subgroup) and
``captions_multilingual.csv`` (codepoint, lang, name), and the drawings of the vendors ``google``
and ``fluent3d``. Encoders are trained on the first artist's drawings with their names in one
language, or in all of them with equal weights, by the same number of steps; recalls are those of
the other artist's drawings. Steps that are done are skipped.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

from emoji_training import (
    ARTISTS,
    read_emoji,
    read_names,
    read_results,
    run_missing,
    spread,
    train,
    write_tokenizer,
)

from clipkit.data import LanguageCaptions, TableColumns, pack
from clipkit.evaluation import CaptionTranslation, Retrieval, RetrievalOptions, open_dataset

PLACE = "json:name_{language}"
ALL = "all"
WAYS = ("text_to_image", "image_to_text")


def prepare(source: Path, work: Path) -> list[str]:
    """Pack the drawings of each artist with their names in all languages; return the languages."""
    names = read_names(source)
    languages = sorted({language for of_emoji in names.values() for language in of_emoji})
    drawings = [
        e for e in read_emoji(source) if set(languages) <= names.get(e.codepoint, {}).keys()
    ]
    columns = [f"name_{language}" for language in languages]
    for artist in ARTISTS:
        table, shards = source_table(work, artist), work / artist
        if (shards / "sizes.json").exists():
            continue
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", *columns])
            for emoji in drawings:
                if emoji.artist == artist:
                    of_emoji = names[emoji.codepoint]
                    writer.writerow([emoji.file, *(of_emoji[language] for language in languages)])
        shutil.rmtree(shards, ignore_errors=True)
        pack(table, shards, images=source, columns=TableColumns(captions=columns))
    texts = [text for of_emoji in names.values() for text in of_emoji.values()]
    write_tokenizer(work / "tokenizer", texts, vocab_size=8000)
    return languages


def source_table(work: Path, artist: str) -> Path:
    return work / f"{artist}.csv"


def measure(work: Path, arm: str, seed: int, steps: int) -> dict[str, float]:
    """Train on one language, or on all, and measure every language."""
    weights = None if arm == ALL else {arm: 1.0}
    caption = LanguageCaptions(PLACE, weights)
    encoder = train(work / ARTISTS[0], caption, work / "tokenizer", steps=steps, seed=seed)
    data = open_dataset(work / ARTISTS[1], caption=LanguageCaptions(PLACE))
    correct = RetrievalOptions(group_field="caption:language")
    recalls = Retrieval(data, ks=(1, 10), correct=correct).run(encoder)
    translation = CaptionTranslation(data, ks=(1, 10)).run(encoder)
    kept = {name: value for name, value in recalls.items() if "group" in name and "gap" not in name}
    return kept | {f"translation/{name}": value for name, value in translation.items()}


def tables(results: list[dict[str, Any]], arms: list[str], languages: list[str]) -> str:
    """Recalls by language and arm, as Markdown."""
    lines = []
    for k in (1, 10):
        for way in WAYS:
            head = " | ".join(f"trained with {arm}" for arm in arms)
            lines += [f"{way}, recall at {k}", "", f"| language | {head} |"]
            lines.append("|---" * (len(arms) + 1) + "|")
            for language in (*languages, "worst"):
                group = "worst_group" if language == "worst" else f"group/{language}"
                cells = [spread(results, arm, f"{way}/{group}/recall_at_{k}") for arm in arms]
                lines.append(f"| {language} | {' | '.join(cells)} |")
            lines.append("")
    lines += ["| translation | " + " | ".join(arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for name in ("recall_at_1", "recall_at_10", "worst_pair/recall_at_10"):
        cells = [spread(results, arm, f"translation/{name}") for arm in arms]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--arms", nargs="+", default=["en", "de", "ar", ALL])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--table", action="store_true", help="print what is measured, and stop")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    output = options.work / "languages.jsonl"
    languages = prepare(options.emoji, options.work)
    results = read_results(output)
    if not options.table:
        runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
        results = run_missing(
            output, runs, lambda arm, seed: measure(options.work, arm, seed, options.steps)
        )
    print(tables(results, options.arms, languages))


if __name__ == "__main__":
    main()
