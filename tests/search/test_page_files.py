"""The files of the page: complete, listed, without anything that the security policy refuses."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clipkit.search.serving import page
from clipkit.search.serving.page import CONTENT_SECURITY_POLICY, page_files

FOLDER = Path(page.__file__).parent
FILES = [path for path in FOLDER.rglob("*") if path.suffix in {".html", ".css", ".js", ".svg"}]
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


class _Markup(HTMLParser):
    """Collects attributes, ids and texts of script and style elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.inline: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(data)


def test_all_files_are_served_and_no_others():
    assert set(page_files()) == {path.name for path in FILES} | {"base.css"}
    for path in FILES:
        assert page_files()[path.name].content == path.read_bytes()


def test_files_have_types_and_tags_of_their_own():
    tags = {file.etag for file in page_files().values()}
    assert len(tags) == len(page_files())
    assert page_files()["index.html"].media_type == "text/html; charset=utf-8"
    assert page_files()["base.css"].media_type == "text/css; charset=utf-8"


@pytest.mark.parametrize("name", ["index.html", "token.html"])
def test_markup_has_nothing_inline_and_names_only_files_that_are_served(name):
    markup = _Markup(page_files()[name].content.decode())
    assert markup.inline == []
    names = [attribute for _, attribute, _ in markup.attributes]
    assert [n for n in names if n == "style" or n.startswith("on")] == []
    links = [v for tag, n, v in markup.attributes if n in {"src", "href"} and tag != "a"]
    assert {link.removeprefix("/static/") for link in links} <= set(page_files())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_each_other_and_write_no_markup(path):
    text = path.read_text(encoding="utf-8")
    imports = re.findall(r'from "\./([\w.]+)"', text)
    assert set(imports) <= {script.name for script in SCRIPTS}
    for imported, module in re.findall(r'import \{([^}]*)\} from "\./([\w.]+)"', text):
        source = (path.parent / module).read_text(encoding="utf-8")
        for name in filter(None, (part.strip() for part in imported.split(","))):
            assert re.search(rf"export (?:async )?(?:function|const|let|class) {name}\b", source)
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert re.findall(forbidden, text) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert len(text.splitlines()) < 300


def test_every_module_is_loaded_at_once():
    """Without this the browser would find them one level of imports after the other."""
    index = _Markup(page_files()["index.html"].content.decode())
    links = {value for tag, name, value in index.attributes if tag == "link" and name == "href"}
    assert {link for link in links if link.endswith(".js")} == {
        f"/static/{path.name}" for path in SCRIPTS if path.name != "app.js"
    }


def test_every_module_is_used():
    used = {"app.js"}
    for path in SCRIPTS:
        used |= set(re.findall(r'from "\./([\w.]+)"', path.read_text(encoding="utf-8")))
    assert used == {path.name for path in SCRIPTS}


def test_elements_that_scripts_look_up_exist():
    index = _Markup(page_files()["index.html"].content.decode())
    ids = {value for _, name, value in index.attributes if name == "id"}
    for path in SCRIPTS:
        wanted = set(re.findall(r'one\("#([\w-]+)', path.read_text(encoding="utf-8")))
        assert wanted <= ids, path.name


def test_the_policy_allows_this_host_alone():
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "http" not in CONTENT_SECURITY_POLICY
