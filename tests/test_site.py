"""The site is built without a warning, and its reference has every public name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.reference_pages import address, public_modules

ROOT = Path(__file__).resolve().parent.parent
LOOKS = {"separate_signature": False, "show_signature": False}


def settings() -> dict[str, Any]:
    """What mkdocs.yml sets, but for the index of the search, colours of code and signatures.

    They are two thirds of a build, and nothing in them can be wrong.
    """
    raw = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    plugins = [plugin for plugin in raw["plugins"] if plugin != "search"]
    (python,) = (plugin["mkdocstrings"]["handlers"]["python"] for plugin in plugins)
    python["options"] |= LOOKS
    extensions = [one for one in raw["markdown_extensions"] if "pymdownx.highlight" not in one]
    plain = {"pymdownx.highlight": {"use_pygments": False}}
    return {"plugins": plugins, "markdown_extensions": [*extensions, plain]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The pages as mkdocs builds them, without a warning, and the package that griffe read."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.plugins import BasePlugin

    read = []

    class Keep(BasePlugin):
        def on_env(self, env: Any, config: Any, files: Any) -> None:
            handler = config.plugins["mkdocstrings"].get_handler("python")
            read.append(handler.collect("clipkit", handler.get_options({})))

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True, **settings())
    config.plugins["keep"] = Keep()
    build(config)
    return folder, read[0]


def test_pages_stay_on_this_machine(built: tuple[Path, Any]) -> None:
    home = (built[0] / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(https?:[^\"]+)\"", home)
    assert [url for url in loaded if "canonical" not in url] == []


@pytest.mark.parametrize("module", public_modules())
def test_every_public_name_is_on_a_page(module: str, built: tuple[Path, Any]) -> None:
    shown = (built[0] / address(module)).with_suffix("") / "index.html"
    shown_names = set(re.findall(r'<h2 id="([\w.]+)"', shown.read_text(encoding="utf-8")))
    assert {f"{module}.{name}" for name in importlib.import_module(module).__all__} <= shown_names


def test_every_public_name_has_a_docstring(built: tuple[Path, Any]) -> None:
    exported = [
        built[1][f"{module}.{name}".removeprefix("clipkit.")]
        for module in public_modules()
        for name in importlib.import_module(module).__all__
    ]
    assert [entry.path for entry in exported if not entry.has_docstring] == []
