"""The documentation says what is: its code runs, its commands parse, its links and names exist."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from open_clip_train import params

from clipkit import training
from clipkit.cli.fit import command as fit
from clipkit.cli.fit.parse_errors import class_entries
from clipkit.cli.main import build_parser, main
from clipkit.cli.tune import command as tune
from clipkit.training import callbacks
from clipkit.tuning.search import check_space
from tests.helpers.factories import image_bytes, write_shards
from tests.helpers.words import UNUSED

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
MARK = "<!-- run -->"
FENCE = re.compile(
    rf"^(?P<mark>{MARK}\n+)?"
    r"^(?P<ticks>`{3,}) ?(?P<language>\w*)(?: title=\"(?P<title>[\w.]+)\")?[^\n]*\n"
    r"(?P<text>.*?)^(?P=ticks)$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]*)\)")
OWN_FILE = re.compile(r"^(?:clipkit|tests|configs|docs|tools)/[\w./*-]+$")


@dataclass(frozen=True)
class Fence:
    """A block of code in a page."""

    page: Path
    language: str
    text: str
    is_run: bool
    title: str | None

    @property
    def name(self) -> str:
        return str(self.page.relative_to(ROOT))


def fences() -> list[Fence]:
    return [
        Fence(page, found["language"], found["text"], found["mark"] is not None, found["title"])
        for page in PAGES
        for found in FENCE.finditer(page.read_text(encoding="utf-8"))
    ]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every line of the shell that starts clipkit and is only shown, as (page, words after it)."""
    for fence in fences():
        if fence.language in {"bash", "console", "sh"} and not fence.is_run:
            for words in commands_of(fence):
                yield fence.name, words


def commands_of(fence: Fence) -> Iterator[list[str]]:
    for line in fence.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == ["srun"]:
            words = words[1:]
        if words[:1] == ["torchrun"]:
            words = ["clipkit", *words[words.index("clipkit.cli.main") + 1 :]]
        if words[:1] == ["clipkit"]:
            yield words[1:]


def slug(heading: str) -> str:
    """The anchor that the pages' generator gives a heading."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def shown(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)[:60]


TUTORIALS = ("train", "finetune", "evaluate")
LESS = {
    "docs/tutorials/train.md": {
        '("train", 20)': '("train", 4)',
        "max_epochs: 8": "max_epochs: 2",
        "{warmup: 10}": "{warmup: 1}",
    },
    "docs/tutorials/finetune.md": {'("train", 16)': '("train", 3)'},
    "docs/tutorials/evaluate.md": {
        '("train", 24)': '("train", 8)',
        "range(4)": "range(1)",
        "clipkit compare": "clipkit compare --replicates 100",
    },
}
"""What a page runs less of here, by its text: the code and the commands are the same."""
RUN = [fence for fence in fences() if fence.is_run]
TRAINER = [(page, words) for page, words in commands() if words[:1] and words[0] in fit.SUBCOMMANDS]
TUNE = [(page, words) for page, words in commands() if words[:1] == ["tune"]]
OTHERS = [(page, words) for page, words in commands() if (page, words) not in [*TRAINER, *TUNE]]


@pytest.mark.parametrize("page", sorted({fence.name for fence in RUN}))
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marked examples of a page run one after the other, in one folder."""
    write_shards(tmp_path / "data" / "train", (12, 9))
    write_shards(tmp_path / "data" / "val", (5,), start=100)
    (tmp_path / "dog.jpg").write_bytes(image_bytes("blue"))
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("an_example_of_the_documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    for fence in map(shortened, RUN):
        if fence.name != page:
            continue
        if fence.language == "python":
            exec(compile(fence.text, fence.name, "exec"), module.__dict__)
        elif fence.title is not None:
            Path(fence.title).write_text(fence.text)
        else:
            assert [words for words in commands_of(fence) if main(words) != 0] == []


def shortened(fence: Fence) -> Fence:
    text = fence.text
    for shown, less in LESS.get(fence.name, {}).items():
        text = text.replace(shown, less)
    return replace(fence, text=text)


def test_what_is_run_less_of_is_on_its_page() -> None:
    for page, texts in LESS.items():
        run = "".join(fence.text for fence in RUN if fence.name == page)
        assert [shown for shown in texts if shown not in run] == []


def test_all_pages_with_examples_were_found() -> None:
    assert {fence.name for fence in RUN} >= {"docs/extending.md", "docs/quickstart.md"}
    assert {fence.name for fence in RUN} >= {f"docs/tutorials/{name}.md" for name in TUTORIALS}


def test_the_plain_loop_is_the_one_that_is_tested() -> None:
    tested = {line.strip() for line in (ROOT / "tests/test_plain_loop.py").read_text().splitlines()}
    (loop,) = [fence.text for fence in RUN if fence.name == "docs/quickstart.md"]
    shown = loop[loop.index("for batch in stream") :].splitlines()[:6]
    assert [line for line in shown if line.strip() not in tested] == []


@pytest.mark.parametrize(("page", "words"), OTHERS, ids=shown)
def test_commands_parse(page: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status: str | int | None = 0
    try:
        build_parser().parse_args(words)
    except SystemExit as leaving:  # --help leaves with 0
        status = leaving.code
    assert status == 0, f"{page}: {capsys.readouterr().err}"


@pytest.mark.parametrize(("page", "words"), TRAINER, ids=shown)
def test_runs_resolve(
    page: str,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Options and files of a run are those that the configuration knows; nothing is trained."""
    monkeypatch.chdir(ROOT)
    # What a run of before would have left behind.
    words = ["configs/experiment/demo.yaml" if word.startswith("runs/") and word.endswith(".yaml")
             else word for word in words]  # fmt: skip
    if not any(word == "-h" or word.endswith(("help", "help_all")) for word in words):
        words = [*(word for word in words if word != "--print_config"), "--print_config"]
    status = main(words)
    assert status == 0, f"{page}: {capsys.readouterr().err}"


@pytest.mark.parametrize(("page", "words"), TUNE, ids=shown)
def test_searches_resolve(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Space and options fit the configuration; nothing is trained."""
    monkeypatch.chdir(ROOT)
    if "--help" in words:
        return
    args, fit_words = tune.build_parser().parse_known_args(words[1:])
    check_space(tune.study_settings(args, fit_words), None)  # raises where a name is unknown


def test_shards_commands_print_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    rows = ["image,caption,label"]
    for number in range(250):
        (tmp_path / f"photos/{number}.jpg").write_bytes(image_bytes("red", (24, 20), number))
        rows.append(f"{number}.jpg,picture {number},{number % 4}")
    (tmp_path / "photos/captions.csv").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/data-format.md").read_text(encoding="utf-8")

    for command in ("pack photos/captions.csv data/train --samples-per-shard 100",
                    "index data/train", "verify data/train"):  # fmt: skip
        (shown_line,) = re.findall(rf"^\$ clipkit shards {re.escape(command)}\n(.*)$", page, re.M)
        assert main(["shards", *command.split()]) == 0
        printed = capsys.readouterr()
        assert shown_line in (printed.out + printed.err).splitlines()
    files = {path.name for path in (tmp_path / "data/train").iterdir() if path.name[0] != "."}
    listing = page[page.index("$ ls data/train\n") :].split("```")[0].split()[3:]
    assert files == set(listing)


def test_subcommands_in_the_text_exist() -> None:
    known = set(fit.SUBCOMMANDS) | set(build_parser()._subparsers._group_actions[0].choices)
    unknown = [
        (page.name, code)
        for page in PAGES
        for code in INLINE.findall(prose(page))
        if (found := re.match(r"clipkit ([a-z]+)\b", code)) and found[1] not in known
    ]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(target)
        elif anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", prose(file), re.MULTILINE)
            if anchor not in {slug(heading) for heading in headings}:
                broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    names = [code for code in INLINE.findall(prose(page)) if OWN_FILE.match(code)]
    assert [name for name in names if not list(ROOT.glob(name.rstrip("/")))] == []


def test_classes_and_options_in_yaml_exist() -> None:
    wrong = []
    for fence in fences():
        if fence.language not in {"yaml", "yml"}:
            continue
        for entry in class_entries(yaml.safe_load(fence.text)):
            module, _, name = entry.class_path.rpartition(".")
            if module.startswith("my_"):  # a reader's own
                continue
            try:
                target = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError):
                wrong.append((fence.name, entry.class_path, ""))
                continue
            known = set(inspect.signature(target).parameters)
            wrong += [(fence.name, entry.class_path, o) for o in entry.options if o not in known]
    assert wrong == []


def test_names_of_the_package_exist() -> None:
    """``clipkit.room.Name`` in the text is something that can be imported."""
    dotted = re.compile(r"^(clipkit(?:\.\w+)+)(?:\(.*\))?$")
    wrong = []
    for page in PAGES:
        for code in INLINE.findall(prose(page)):
            if not (found := dotted.match(code)):
                continue
            module, _, name = found[1].rpartition(".")
            try:
                parent = importlib.import_module(module)
                if not hasattr(parent, name):
                    importlib.import_module(found[1])
            except ImportError:
                wrong.append((page.name, code))
    assert wrong == []


def test_options_of_a_run_exist() -> None:
    """``data.train`` in the text, with or without dashes, is an option of ``clipkit fit``."""
    sections = {"data": training.PairDataModule, "model": training.ContrastiveModule}
    dotted = re.compile(r"^(?:--)?(data|model)\.([a-z]\w*(?:\.\w+)*)$")
    wrong = []
    for page in PAGES:
        for code in INLINE.findall(prose(page)):
            if not (found := dotted.match(code)) or code.endswith(".safetensors"):
                continue
            known: Any = sections[found[1]]
            for name in found[2].split("."):
                if known is None:
                    break
                options = typing.get_type_hints(known.__init__)  # type: ignore[misc]
                if name not in options:
                    wrong.append((page.name, code))
                    break
                known = next(filter(is_dataclass, alternatives(options[name])), None)
    assert wrong == []


def alternatives(hint: object) -> tuple[object, ...]:
    """The parts of ``A | B``, else the hint itself."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def test_all_callbacks_are_in_the_table() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    known = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Callback)}
    assert known <= table


def test_every_option_of_open_clip_is_mapped() -> None:
    page = (ROOT / "docs/from-open-clip.md").read_text(encoding="utf-8")
    options = set(re.findall(r"""["'](--[a-z0-9-]+)["']""", inspect.getsource(params)))
    assert len(options) > 80
    assert options <= set(re.findall(r"`(--[a-z0-9-]+)`", page))


def test_stages_of_the_route_are_the_folders_of_data() -> None:
    page = (ROOT / "docs/data-flow.md").read_text(encoding="utf-8")
    stages = page[page.index("## Stage by stage") :].partition("After the data")[0]
    folders = {path.parent.name for path in (ROOT / "clipkit/data").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", stages, re.MULTILINE)) == folders


def test_every_package_has_its_layer() -> None:
    page = (ROOT / "docs/data-flow.md").read_text(encoding="utf-8")
    layers = page[page.index("## Layers") :].partition("`lightning` and")[0]
    packages = {f"clipkit.{path.parent.name}" for path in ROOT.glob("clipkit/*/__init__.py")}
    assert packages - set(INLINE.findall(layers)) == set()


def test_all_tools_are_in_their_table() -> None:
    table = (ROOT / "tools/README.md").read_text(encoding="utf-8")
    listed = {name for name in INLINE.findall(table) if name.endswith((".py", ".sh"))}
    files = {path.name for path in (ROOT / "tools").iterdir() if path.suffix in {".py", ".sh"}}
    assert files == listed


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "decisions" not in page.parts and page.name != "style.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)  # fmt: skip
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    """docs/contributing/style.md lists them."""
    text = INLINE.sub("", LINK.sub("", prose(page)))
    assert UNUSED.findall(text) == []


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {
        found
        for page in PAGES
        for found in re.findall(r"^(?:\$ )?\s*make ([\w-]+)|`make ([\w-]+)", page.read_text(), re.M)
    }
    assert {first or second for first, second in wanted} <= targets
