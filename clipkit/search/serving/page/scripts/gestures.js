// Pointer, wheel and touch on the map: drag, pinch, point at, click.

const CLICK_PIXELS = 6;

/**
 * Report gestures on an element. `actions` has move(dx, dy), zoom(factor, x, y), point(x, y) and
 * leave() for a mouse without a button, and click(x, y); all in pixels of the element.
 */
export function watchGestures(element, actions) {
  const pointers = new Map();
  let travelled = 0;
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const span = () => {
    const [[ax, ay], [bx, by]] = [...pointers.values()];
    return { size: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 };
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (pointers.size === 0) travelled = 0;
    pointers.set(event.pointerId, place(event));
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") actions.point(...now);
      return;
    }
    const earlier = pointers.size === 2 ? span() : null;
    pointers.set(event.pointerId, now);
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (earlier) {
      const later = span();
      actions.move(later.x - earlier.x, later.y - earlier.y);
      if (earlier.size > 0) actions.zoom(later.size / earlier.size, later.x, later.y);
    } else if (travelled > CLICK_PIXELS) actions.move(now[0] - before[0], now[1] - before[1]);
  });
  element.addEventListener("pointerup", (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (travelled <= CLICK_PIXELS && pointers.size === 0) actions.click(...place(event));
  });
  element.addEventListener("pointercancel", (event) => {
    pointers.delete(event.pointerId);
    travelled = Infinity;
  });
  element.addEventListener("pointerleave", () => actions.leave());
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      actions.zoom(Math.exp(-event.deltaY * lines * 0.0015), ...place(event));
    },
    { passive: false },
  );
}
