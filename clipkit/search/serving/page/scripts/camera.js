// Where the points of the map are on the screen: a scale and an offset.

const MARGIN_PIXELS = 24;
const MAX_ZOOM = 200;

export class Camera {
  /** Width and height are those of the canvas, in CSS pixels; reach is the farthest x and y. */
  constructor(width, height, reach = [1, 1]) {
    this.reach = reach;
    this.resize(width, height);
    this.showAll();
  }

  /** Change the size; what is in the middle stays there. */
  resize(width, height) {
    this.offsetX = (this.offsetX ?? 0) + (width - (this.width ?? width)) / 2;
    this.offsetY = (this.offsetY ?? 0) + (height - (this.height ?? height)) / 2;
    [this.width, this.height] = [width, height];
    const fits = [width, height].map((size, axis) => (size / 2 - MARGIN_PIXELS) / this.reach[axis]);
    this.unit = Math.max(10, Math.min(...fits));
  }

  showAll() {
    this.zoom = 1;
    [this.offsetX, this.offsetY] = [this.width / 2, this.height / 2];
  }

  get scale() {
    return this.unit * this.zoom;
  }

  /** Return the place on the screen of a place on the plane. */
  toScreen(x, y) {
    return [this.offsetX + x * this.scale, this.offsetY - y * this.scale];
  }

  move(dx, dy) {
    this.offsetX += dx;
    this.offsetY += dy;
    // The map cannot be moved out of sight.
    const half = this.scale;
    this.offsetX = Math.min(Math.max(this.offsetX, -half + 20), this.width + half - 20);
    this.offsetY = Math.min(Math.max(this.offsetY, -half + 20), this.height + half - 20);
  }

  /** Change the scale by a factor; the place under (x, y) stays there. */
  zoomAt(factor, x, y) {
    const zoom = Math.min(Math.max(this.zoom * factor, 0.5), MAX_ZOOM);
    const change = zoom / this.zoom;
    this.zoom = zoom;
    this.offsetX = x + (this.offsetX - x) * change;
    this.offsetY = y + (this.offsetY - y) * change;
    this.move(0, 0);
  }

  /** Move so that a place on the plane is in sight. */
  reveal(x, y) {
    const [left, top] = this.toScreen(x, y);
    const edge = 40;
    const shift = (value, size) =>
      value < edge ? edge - value : value > size - edge ? size - edge - value : 0;
    this.move(shift(left, this.width), shift(top, this.height));
  }
}
