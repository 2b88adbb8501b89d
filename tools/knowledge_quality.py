"""Recall and accuracy on unseen concepts, of encoders that were trained with and without facts.

    python tools/knowledge_quality.py EMOJI WORK

EMOJI is as for ``tools/language_quality.py``; flags are left out. A fifth of the concepts (another
one for each seed) is not trained on. The table of facts defines every concept by its subgroup and
its keywords without its name. Encoders are trained with the names of the seen concepts; with a
definition after half of the names; and, as a control, with names and keywords as captions of their
own. Each is measured on the unseen concepts with their names, and with names and definitions. Steps
that are done are skipped.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from pathlib import Path
from typing import Any

from emoji_training import (
    Emoji,
    read_emoji,
    read_results,
    run_missing,
    spread,
    train,
    write_tokenizer,
)

from clipkit.data import (
    CaptionPicker,
    JsonFields,
    KnowledgeCaptions,
    LabelTemplates,
    TableColumns,
    pack,
)
from clipkit.data.text.facts import words_of
from clipkit.evaluation import Retrieval, RetrievalOptions, ZeroShotClassification, open_dataset

UNSEEN_SHARE = 0.2
MAX_KEYWORDS = 6
TEMPLATES = ["{}"]
ARMS = ("names", "names and definitions", "names and keywords")
PROMPTS = ("names", "definitions")
COLUMNS = {
    "zero_shot/top1": "zero-shot top 1",
    "zero_shot/top5": "top 5",
    "text_to_image/recall_at_1": "text to image R@1",
    "text_to_image/recall_at_10": "R@10",
    "image_to_text/recall_at_1": "image to text R@1",
    "image_to_text/recall_at_10": "R@10",
}
CONTEXT_LENGTH = 48


def definition(emoji: Emoji) -> str:
    """Subgroup and keywords of a concept, without its name."""
    words = [word for word in emoji.keywords if word != emoji.name][:MAX_KEYWORDS]
    return ", ".join([emoji.subgroup.replace("-", " "), *words])


def prepare(source: Path, work: Path, seed: int) -> Path:
    """Write the table of facts, and pack seen and unseen concepts; return their folder."""
    drawings = [e for e in read_emoji(source) if not e.subgroup.endswith("flag")]
    of_words = {words_of(e.name): e.name for e in drawings}  # those of a keycap differ in symbols
    emoji = [e for e in drawings if of_words[words_of(e.name)] == e.name]
    of_names = {e.name: e for e in emoji}
    facts = work / "facts.csv"
    if not facts.exists():
        write_rows(facts, ["name", "definition"], [[n, definition(e)] for n, e in of_names.items()])
        texts = [text for n, e in of_names.items() for text in (n, definition(e))]
        write_tokenizer(work / "tokenizer", texts, vocab_size=4000)
    names = sorted(of_names)
    random.Random(seed).shuffle(names)
    unseen = set(names[: round(UNSEEN_SHARE * len(names))])
    folder = work / f"seed{seed}"
    for split in ("seen", "unseen"):
        if (folder / split / "sizes.json").exists():
            continue
        folder.mkdir(exist_ok=True)
        chosen = [e for e in emoji if (e.name in unseen) == (split == "unseen")]
        rows = [[e.file, e.name, e.name, ", ".join(e.keywords)] for e in chosen]
        table = folder / f"{split}.csv"
        write_rows(table, ["file", "caption", "class_name", "words"], rows)
        shutil.rmtree(folder / split, ignore_errors=True)
        pack(table, folder / split, images=source, columns=TableColumns(captions=["caption"]))
    return folder


def write_rows(path: Path, names: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([names, *rows])


def picker(arm: str, facts: Path) -> CaptionPicker:
    names = JsonFields({"caption": 1.0})
    if arm == "names":
        return names
    if arm == "names and definitions":
        return KnowledgeCaptions(str(facts), names, probability=0.5)
    return JsonFields({"caption": 0.5, "words": 0.5})


def measure(source: Path, work: Path, arm: str, seed: int, steps: int) -> dict[str, float]:
    """Train on the seen concepts, and measure the unseen ones with both kinds of prompts."""
    folder, facts = prepare(source, work, seed), work / "facts.csv"
    encoder = train(
        folder / "seen", picker(arm, facts), work / "tokenizer",
        steps=steps, seed=seed, context_length=CONTEXT_LENGTH,
    )  # fmt: skip
    found = {}
    for prompts in PROMPTS:
        table = str(facts) if prompts == "definitions" else None
        classify = ZeroShotClassification(folder / "unseen", templates=TEMPLATES, facts=table)
        found |= {f"{prompts}/zero_shot/{k}": v for k, v in classify.run(encoder).items()}
        names = LabelTemplates(str(folder / "unseen/classnames.txt"), TEMPLATES)
        caption = names if table is None else KnowledgeCaptions(table, names, probability=1.0)
        data = open_dataset(folder / "unseen", caption=caption)
        correct = RetrievalOptions(merge_captions=True)
        recalls = Retrieval(data, ks=(1, 10), correct=correct).run(encoder)
        found |= {f"{prompts}/{name}": value for name, value in recalls.items()}
    wanted = {f"{prompts}/{column}" for prompts in PROMPTS for column in COLUMNS}
    return {name: value for name, value in found.items() if name in wanted}


def table(results: list[dict[str, Any]]) -> str:
    """Means and standard deviations over the seeds, as Markdown."""
    lines = [f"| trained with | measured with | {' | '.join(COLUMNS.values())} |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for arm in ARMS:
        for prompts in PROMPTS:
            cells = [spread(results, arm, f"{prompts}/{column}") for column in COLUMNS]
            lines.append(f"| {arm} | {prompts} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--table", action="store_true", help="print what is measured, and stop")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    output = options.work / "knowledge.jsonl"
    results = read_results(output)
    if not options.table:
        runs = [(arm, seed) for seed in options.seeds for arm in ARMS]
        results = run_missing(
            output, runs,
            lambda arm, seed: measure(options.emoji, options.work, arm, seed, options.steps),
        )  # fmt: skip
    print(table(results))


if __name__ == "__main__":
    main()
