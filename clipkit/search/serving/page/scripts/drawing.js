// Draws the map: points in the colours of their classes, and thumbnails where few are in sight.
import { thumbnailUrl } from "./api.js";

const MAX_THUMBNAILS = 150;
const THUMBNAIL_PIXELS = 44;
const KEPT_IMAGES = 600;

export class Drawing {
  /** `onImage` is called when a thumbnail has arrived. */
  constructor(canvas, onImage) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onImage = onImage;
    this.images = new Map();
  }

  resize(width, height) {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /**
   * Draw everything. `scene` has points, camera, colours (of the classes), ink, ground, only (a
   * class or null), marked (a set of rows) and selected (a point or null).
   */
  draw(scene) {
    const { camera, points, colours, only } = scene;
    this.context.clearRect(0, 0, camera.width, camera.height);
    const inSight = points.filter((point) => isInSight(camera.toScreen(point.x, point.y), camera));
    const radius = Math.min(
      6,
      Math.max(2, 1.6 + Math.log2(camera.zoom + 1)) * (points.length < 500 ? 1.6 : 1),
    );
    const isFaint = (point) => only !== null && point.colour !== only;
    colours.forEach((colour, number) => {
      const ofColour = inSight.filter((point) => point.colour === number);
      this.context.fillStyle = colour;
      this.context.globalAlpha = only !== null && number !== only ? 0.08 : 0.85;
      this.dots(ofColour, camera, radius);
    });
    this.context.globalAlpha = 1;
    const shown = inSight.filter((point) => !isFaint(point));
    if (shown.length <= MAX_THUMBNAILS && camera.zoom > 1.5) this.thumbnails(shown, scene);
    this.rings(
      inSight.filter((point) => scene.marked.has(point.row)),
      scene,
      radius + 3,
      1.5,
    );
    if (scene.selected) this.rings([scene.selected], scene, radius + 6, 3);
  }

  dots(points, camera, radius) {
    this.context.beginPath();
    for (const point of points) {
      const [x, y] = camera.toScreen(point.x, point.y);
      this.context.moveTo(x + radius, y);
      this.context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    this.context.fill();
  }

  rings(points, { camera, ink }, radius, width) {
    this.context.strokeStyle = ink;
    this.context.lineWidth = width;
    for (const point of points) {
      const [x, y] = camera.toScreen(point.x, point.y);
      this.context.beginPath();
      this.context.arc(x, y, radius, 0, 2 * Math.PI);
      this.context.stroke();
    }
  }

  thumbnails(points, { camera, colours, ground }) {
    for (const point of points) {
      const image = this.imageOf(point.row);
      if (!image.complete || !image.naturalWidth) continue;
      const [x, y] = camera.toScreen(point.x, point.y);
      const fit = THUMBNAIL_PIXELS / Math.max(image.naturalWidth, image.naturalHeight);
      const [width, height] = [image.naturalWidth * fit, image.naturalHeight * fit];
      const box = [x - width / 2, y - height / 2, width, height];
      this.context.fillStyle = ground;
      this.context.fillRect(...box);
      this.context.drawImage(image, ...box);
      this.context.strokeStyle = colours[point.colour];
      this.context.lineWidth = 2;
      this.context.strokeRect(...box);
    }
  }

  imageOf(row) {
    let image = this.images.get(row);
    if (!image) {
      image = new Image();
      image.addEventListener("load", this.onImage);
      image.src = thumbnailUrl(row, 64);
      if (this.images.size >= KEPT_IMAGES) this.images.delete(this.images.keys().next().value);
      this.images.set(row, image);
    }
    return image;
  }
}

const isInSight = ([x, y], { width, height }) =>
  x > -THUMBNAIL_PIXELS &&
  y > -THUMBNAIL_PIXELS &&
  x < width + THUMBNAIL_PIXELS &&
  y < height + THUMBNAIL_PIXELS;
