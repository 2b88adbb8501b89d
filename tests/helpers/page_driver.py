"""A person in a browser: real clicks, keys, touches and dropped files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.helpers.chromium import Chromium

_KEYS = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
         "ArrowDown": 40, "Home": 36, "End": 35}  # fmt: skip
_SHIFT = 8

NAMELESS = """
[...document.querySelectorAll("a, button, input, select, dialog[open], [role], [tabindex]")]
  .filter((node) => node.getClientRects().length && node.id !== "main" && node.tagName !== "H2")
  .filter((node) => {
    const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean)
      .map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const labels = [...(node.labels ?? [])].map((label) => label.textContent).join(" ");
    const name = node.getAttribute("aria-label") || by || labels
      || node.querySelector("img[alt]")?.alt || node.textContent;
    return !name.trim() && !["status", "alert"].includes(node.getAttribute("role"));
  })
  .map((node) => node.outerHTML.slice(0, 120))
"""
"""Controls that a screen reader could not name."""


_NEXT_FRAME = """
new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))
"""

_ROWS = """
[...document.querySelectorAll("#grid .card")].map((card) => Number(card.dataset.row))
""".strip()


class PageDriver:
    """Acts on the page of a browser."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser

    def visit(self, url: str, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        """Load a page anew, also if only its fragment differs from the current one."""
        browser = self.browser
        browser.call("Page.navigate", url="about:blank")
        browser.wait_for("location.href === 'about:blank'")
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.call("Emulation.setEmulatedMedia", features=[scheme])
        browser.complaints.clear()
        browser.requests.clear()
        browser.call("Page.navigate", url=url)
        browser.wait_for("location.protocol !== 'about:' && document.readyState === 'complete'")

    def resize(self, width: int, height: int = 900) -> None:
        self.browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def value(self, expression: str) -> Any:
        return self.browser.evaluate(expression)

    def wait_for(self, condition: str) -> None:
        self.browser.wait_for(condition)

    def next_frame(self) -> None:
        self.wait_for(_NEXT_FRAME)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, width and height."""
        node = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return tuple(self.value(f"(({{x, y, width, height}}) => [x, y, width, height])({node})"))

    def rows(self) -> list[int]:
        """Return the rows of the results that are shown."""
        return self.value(_ROWS)

    def wait_for_rows(self, wanted: list[int]) -> None:
        """Wait until these are the first results, in this order."""
        self.wait_for(f"String({_ROWS}.slice(0, {len(wanted)})) === String({wanted})")

    def search_for(self, text: str) -> None:
        self.click("#text")
        self.type(text)
        self.press("Enter")

    def texts(self, selector: str) -> list[str]:
        nodes = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return self.value(f"{nodes}.map((node) => node.innerText.trim())")

    def count(self, selector: str) -> int:
        return self.value(f"document.querySelectorAll({json.dumps(selector)}).length")

    def place(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view, and return its middle, which nothing must cover.

        A form or a link may have left the page: without its styles, the next one has other places.
        """
        name = json.dumps(selector)
        is_shown = f"document.querySelector({name})?.getClientRects().length > 0"
        self.wait_for(f"document.readyState === 'complete' && {is_shown}")
        x, y, is_on_top = self.value(
            f"""(() => {{
              const node = document.querySelector({name});
              node.scrollIntoView({{ block: "center", behavior: "instant" }});
              const box = node.getBoundingClientRect();
              const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
              const top = document.elementFromPoint(x, y);
              return [x, y, node === top || node.contains(top) || top?.contains(node)];
            }})()"""
        )
        assert is_on_top, f"{selector} is covered by something else"
        return x, y

    def click(self, selector: str) -> None:
        self.click_at(*self.place(selector))

    def click_at(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def wheel(self, x: float, y: float, delta: float) -> None:
        self.mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def type(self, text: str) -> None:
        self.browser.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        about: dict[str, Any] = {"key": key, "modifiers": _SHIFT if shift else 0}
        if key in _KEYS:
            about |= {"code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        self.browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def tap(self, selector: str, until: str) -> None:
        """Touch an element until a condition is true: on a busy machine a touch is a long press."""
        for _ in range(10):
            self.touch([self.place(selector)])
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if self.value(until):
                    return
                time.sleep(0.05)
        raise AssertionError(f"never true after a touch of {selector}: {until}")

    def touch(self, *paths: list[tuple[float, float]]) -> None:
        """Put down one finger for each path, move them all, and lift them."""
        for step, points in enumerate(zip(*paths, strict=True)):
            kind = "touchMove" if step else "touchStart"
            touches = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
            self.browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)
        self.browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def drop(self, file: Path, x: float, y: float) -> None:
        """Drag a file from outside of the browser and drop it."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose_file(self, selector: str, file: Path) -> None:
        root = self.browser.call("DOM.getDocument")["root"]["nodeId"]
        node = self.browser.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
