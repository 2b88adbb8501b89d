"""Sentences of a data card: how leakage was measured, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator

from clipkit.evaluation.building.facts import UNKNOWN, SetFacts


def measures(facts: SetFacts) -> Iterator[str]:
    """Yield how the splits were kept apart."""
    options, leakage = facts.duplicate_options, facts.leakage
    if options.image_distance is not None:
        yield (
            f"Images whose perceptual hashes differ in at most {options.image_distance} of 128 "
            f"bits are in one split, also if one is mirrored or 5 % of a side are cut off: "
            f"{leakage.num_equal_images:,} images with an equal hash, and "
            f"{leakage.num_image_pairs:,} pairs of different hashes."
        )
    if facts.description.has_model and options.embedding_similarity is not None:
        yield (
            f"Images whose embeddings have a cosine similarity of at least "
            f"{options.embedding_similarity:g} are in one split: "
            f"{leakage.num_embedding_pairs:,} pairs."
        )
    if options.caption_similarity is not None:
        yield (
            f"Images whose captions share at least {100 * options.caption_similarity:g} % of their "
            f"words are in one split: {leakage.num_equal_captions:,} captions with equal words, "
            f"and {leakage.num_caption_pairs:,} pairs of nearly equal ones."
        )
    for field in facts.split_options.groups:
        yield f"Samples with one value of `{field}` are in one split."
    biggest = leakage.largest_groups[0] if leakage.largest_groups else 1
    yield (
        f"There are {leakage.num_groups:,} groups, the largest with {biggest:,} samples. No group "
        f"is in both splits."
    )
    if facts.stratified_by != "none":
        yield f"Both splits have equal shares by `{facts.stratified_by}`, as far as groups allow."


def limits(facts: SetFacts) -> Iterator[str]:
    """Yield what was left in, and what is not known."""
    yield from _of_comparisons(facts)
    leakage = facts.leakage
    if leakage.num_generic_captions_in_both:
        yield (
            f"{leakage.num_generic_captions_in_both:,} captions are in both splits, because they "
            f"are names of classes or belong to more than ten images."
        )
    for field, count in leakage.num_without_field.items():
        if count:
            yield f"{count:,} samples have no `{field}`, which does not keep them together."
    if leakage.num_rows_cut:
        yield (
            f"{leakage.num_rows_cut:,} rows have more candidates than the 1,024 that were "
            f"compared: near-duplicates among them may have been missed."
        )
    if facts.only_in_train:
        shown = ", ".join(facts.only_in_train[:10])
        more = ", ..." if len(facts.only_in_train) > 10 else ""
        yield (
            f"{len(facts.only_in_train):,} of the strata have no test samples, because all their "
            f"samples are one group: {shown}{more}."
        )
    yield from _unknown(facts)


def _of_comparisons(facts: SetFacts) -> Iterator[str]:
    """Yield which copies the comparisons do not find."""
    leakage, options = facts.leakage, facts.duplicate_options
    if options.image_distance is None:
        yield "Images were not compared: copies of one image may be in both splits."
    else:
        yield (
            "Copies that were rotated by more than 2 degrees, cut by more than about 5 % of a "
            "side, or placed into a larger image are mostly not found by perceptual hashes."
        )
        if leakage.num_near_misses:
            nearest = leakage.near_misses[0]
            yield (
                f"{leakage.num_near_misses:,} pairs across the splits are just above the limit; "
                f"the nearest differ in {nearest.distance} bits ({nearest.train}, {nearest.test})."
            )
    if not facts.description.has_model:
        yield (
            "No model was used: different photographs of one object or scene may be in both splits."
        )
    if options.caption_similarity is None:
        yield "Captions were not compared: equal captions may be in both splits."


def _unknown(facts: SetFacts) -> Iterator[str]:
    described = facts.description
    if facts.write_options.num_negatives and described.num_with_negatives:
        how = "the model's similarity" if described.has_model else "common words"
        yield (
            f"Hard negatives were selected by {how} and not checked by people: a negative caption "
            f"may describe the image after all."
        )
        if described.has_model:
            yield (
                "They are hard for that model in particular: compare other models on them, not "
                "this one with others."
            )
    if described.num_with_cut_positives:
        yield (
            f"{described.num_with_cut_positives:,} captions match more than 100 further images, of "
            f"which `extra_positives.json` lists the first 100."
        )
    if not any(split.languages for split in facts.splits.values()):
        scripts = ", ".join(f"{name} {count:,}" for name, count in facts.scripts.items())
        if scripts:
            yield (
                f"The source has no field for the language of captions. A hint is their script, "
                f"which is not a language: {scripts} captions."
            )
    if facts.write_options.license is None:
        licenses = [name for split in facts.splits.values() for name in split.licenses]
        if not licenses:
            yield "The licence of the images is not known."
        elif UNKNOWN in licenses:
            yield "The licence of some images is not known."
    if facts.num_faults:
        key, reason = facts.faults[0]
        yield f"{facts.num_faults:,} samples were left out, such as {key}: {reason}."
