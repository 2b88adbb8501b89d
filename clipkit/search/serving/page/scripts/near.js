// Which point of the map is meant: under the pointer, or next in the direction of a key.

const NEAR_PIXELS = 18;

/** Return the point nearest to a place on the screen, or null if none is near. */
export function pointAt(points, camera, x, y, nearPixels = NEAR_PIXELS) {
  let [best, least] = [null, nearPixels ** 2];
  for (const point of points) {
    const [left, top] = camera.toScreen(point.x, point.y);
    const distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

/** Return the next point inside a quarter of the plane that opens in a direction, or `from`. */
export function nextPoint(points, from, [wayX, wayY]) {
  let [best, least] = [from, Infinity];
  for (const point of points) {
    const [dx, dy] = [point.x - from.x, point.y - from.y];
    const along = dx * wayX + dy * wayY;
    if (point === from || along <= 0 || along < Math.abs(dx * wayY - dy * wayX)) continue;
    const distance = dx * dx + dy * dy;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}
