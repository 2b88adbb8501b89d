"""The map of the page of search, with mouse, keyboard and fingers."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


def test_the_map_is_explored_with_mouse_and_keyboard(page):
    page.press("m")
    page.wait_for("document.querySelectorAll('#legend button').length === 4")
    assert page.texts("#legend button")[0].replace("\n", " ").startswith("red")
    page.wait_for("document.querySelector('#plane-text').hidden")
    left, top, width, height = page.box("#plane")
    before = page.browser.screenshot()

    # Some point is under the pointer sooner or later; its thumbnail is shown, a click opens it.
    places = ((left + width * x / 40, top + height * y / 20) for y in range(20) for x in range(40))
    for x, y in places:
        page.mouse("mouseMoved", x, y)
        if page.value("!document.querySelector('#tip').hidden"):
            break
    else:
        pytest.fail("no point of the map is under the pointer")
    page.wait_for("document.querySelector('#tip img').naturalWidth > 0")
    page.click_at(x, y)
    page.wait_for("document.querySelectorAll('#detail .facts div').length > 4")
    page.press("Escape")
    page.wait_for("!document.querySelector('dialog[open]')")

    page.wheel(left + width / 2, top + height / 2, -600)
    page.next_frame()
    assert page.browser.screenshot() != before
    page.click("#plane")
    page.press("Escape")
    page.value("document.querySelector('#plane').focus()")
    page.press("0")
    page.press("ArrowRight")
    page.wait_for("document.querySelector('#live').innerText.startsWith('Image')")
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#detail .facts div').length > 4")


def test_the_map_keeps_the_place_under_the_pointer(page):
    """Geometry of the map: scale, limits, and the next point in a direction."""
    facts = page.value(
        """(async () => {
          const { Camera } = await import("/static/camera.js");
          const { nextPoint, pointAt } = await import("/static/near.js");
          const camera = new Camera(800, 400, [1, 0.5]);
          const corner = camera.toScreen(1, 0.5);
          camera.zoomAt(3, 500, 100);
          const x = (500 - camera.offsetX) / camera.scale;
          const y = (camera.offsetY - 100) / camera.scale;
          camera.zoomAt(2, 500, 100);
          const under = camera.toScreen(x, y);
          camera.move(1e6, -1e6);
          const inSight = camera.toScreen(-1, -1)[0] < 800 && camera.toScreen(1, -1)[1] > 0;
          const points = [[0, 0], [0.2, 0.01], [0.1, 0.3], [-0.5, 0]].map(([x, y]) => ({ x, y }));
          const next = (way) => points.indexOf(nextPoint(points, points[0], way));
          camera.showAll();
          const [left, top] = camera.toScreen(0.1, 0.3);
          return {
            corner, under, inSight,
            ways: [[1, 0], [-1, 0], [0, 1], [0, -1]].map(next),
            at: points.indexOf(pointAt(points, camera, left + 5, top)),
            none: pointAt(points, camera, left + 50, top - 50),
          };
        })()"""
    )
    assert facts["corner"] == [752.0, 24.0]  # the smaller margin of 24 pixels is kept
    assert facts["under"] == pytest.approx([500, 100])
    assert facts["inSight"]
    assert facts["ways"] == [1, 3, 2, 0]
    assert (facts["at"], facts["none"]) == (2, None)


def test_fingers_open_images_and_pinch_the_map(page, page_url):
    page.browser.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    try:
        page.visit(page_url + "#q=red", 400, 800)
        opened = "document.querySelectorAll('#detail .facts div').length > 4"
        page.tap("#grid li:nth-child(2) .frame", opened)
        page.tap("#detail header .icon:last-child", "!document.querySelector('dialog[open]')")
        page.tap("[data-view=map]", "!document.querySelector('#map-view').hidden")
        page.wait_for("document.querySelector('#plane-text').hidden")
        before = page.browser.screenshot()
        x, y = page.place("#plane")
        page.touch([(x - 20, y), (x - 80, y)], [(x + 20, y), (x + 80, y)])
        page.next_frame()
        assert page.browser.screenshot() != before
    finally:
        page.browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
