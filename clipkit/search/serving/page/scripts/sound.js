// Players of sounds; nothing is loaded before one is played.
import { soundUrl } from "./api.js";
import { make } from "./dom.js";

/** Create a player for the sound of a row. */
export const player = (row, name) => playerOf(soundUrl(row), name);

/** Create a player for an address. */
export const playerOf = (source, name) =>
  make("audio", { controls: true, preload: "none", src: source, "aria-label": `Sound: ${name}` });
