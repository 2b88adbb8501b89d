"""Share of captions whose language is recognised, by their number of words.

python tools/bench_languages.py CAPTIONS.csv --captions 4000

The table has the columns lang and caption. Chinese is counted in characters instead of words.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections import Counter
from pathlib import Path

from clipkit.curation.filters.languages import language_detector
from clipkit.data.text.word_sets import words_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--captions", type=int, default=4000)
    parser.add_argument("--words", type=int, nargs="+", default=[1, 2, 4, 8, 1000])
    args = parser.parse_args()
    with args.table.open(encoding="utf-8", newline="") as file:
        rows = [(row["lang"], row["caption"]) for row in csv.DictReader(file)]
    random.Random(0).shuffle(rows)
    rows = rows[: args.captions]
    detect = language_detector(sorted({language for language, _ in rows}))
    for most in args.words:
        total, right = Counter[str](), Counter[str]()
        begin = time.perf_counter()
        for language, caption in rows:
            joined = "" if language == "zh" else " "
            short = joined.join(words_of(caption)[:most]) if most < max(args.words) else caption
            total[language] += 1
            right[language] += detect(short) == language
        seconds = time.perf_counter() - begin
        shares = {name: round(right[name] / count, 3) for name, count in sorted(total.items())}
        everything = round(right.total() / total.total(), 3)
        print(
            f"{most} words: {everything} {shares}, {1e3 * seconds / len(rows):.2f} ms per caption"
        )


if __name__ == "__main__":
    main()
