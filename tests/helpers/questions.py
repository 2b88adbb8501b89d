"""A table of questions about pictures, and a joint encoder with a head for the answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from clipkit.models import (
    CrossAttentionFusion,
    JointEncoder,
    LinearLabelHead,
    with_fused_head,
    with_fusion,
)
from tests.helpers.evaluation_data import picture, tiny_encoder

ANSWERS = ("red", "blue", "two", "yes")
PEOPLE = (
    ["red"] * 10,
    ["Blue "] * 2 + ["red"] * 8,
    ["two", "2", "two", "yes"],
    ["green", "green", "red"],
    ["yes"],
    ["blue", "yes"],
)
"""Answers to each question; nobody gave the most frequent one of the fourth to the head."""


def write_questions(folder: Path, people: Sequence[Sequence[str]] = PEOPLE) -> Path:
    """Write a table with two questions about each picture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "questions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", "answers"])
        for number, answers in enumerate(people):
            name = f"{number // 2}.png"
            (folder / name).write_bytes(picture(number // 2))
            writer.writerow([name, f"what is it, {number}?", json.dumps(list(answers))])
    return path


def write_labelled(folder: Path, labels: Sequence[str], text: str = "hypothesis") -> Path:
    """Write a table with one class for each pair of a picture and a text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled.csv"
    rows = [f"image,{text},label"]
    for number, label in enumerate(labels):
        name = f"{number // 2 if text == 'hypothesis' else number}.png"
        (folder / name).write_bytes(picture(number))
        rows.append(f"{name},it is a thing of kind {number % 3},{label}")
    path.write_text("\n".join(rows) + "\n")
    return path


def joint_encoder(names: Sequence[str] = ANSWERS) -> JointEncoder:
    """Random weights behind open_clip's real tokenizer."""
    joint = with_fusion(tiny_encoder(), CrossAttentionFusion(16, 1, 2))
    head = LinearLabelHead(16, len(names))
    torch.manual_seed(2)
    torch.nn.init.normal_(head.linear.weight)
    head.class_names = tuple(names)
    return with_fused_head(joint, head)
