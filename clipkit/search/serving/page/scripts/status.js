// State of the server: it answers before the collection and the model are loaded.
import { fetchStatus } from "./api.js";
import { announce, bdi, formatNumber, one } from "./dom.js";
import { hideNotice, showNotice } from "./notice.js";

const PAUSE_MS = 400;
let ready;

/** Return the status of the server, once the collection is loaded. */
export function whenReady() {
  ready ??= load();
  return ready;
}

async function load() {
  for (;;) {
    const status = await current();
    showCollection(status);
    if (status.state === "ready") {
      one("#loading").hidden = true;
      return status;
    }
    if (status.state === "failed")
      await pause(() =>
        fail(
          `Loading failed: ${status.message}. Correct this, start the server again, then load this page again.`,
        ),
      );
    else showProgress(status);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** Return the status, as soon as the server answers. */
async function current() {
  for (;;) {
    try {
      return await fetchStatus();
    } catch (error) {
      await pause((retry) => fail(error.message, retry));
    }
  }
}

const pause = (show) => new Promise((resolve) => show(resolve));

function fail(text, retry = null) {
  one("#loading").hidden = true;
  showNotice(text, retry);
}

/** Return what a row is called: an image or a sound; a sample if both are searched. */
export const nounOf = ({ modalities }) =>
  modalities.length > 1 ? "sample" : (modalities[0] ?? "image");

let noun = "image";
/** Return what a row is called, as far as the server has said so. */
export const rowNoun = () => noun;

/** Return a text that begins with a capital letter. */
export const capitalised = (text) => text[0].toUpperCase() + text.slice(1);

/** Return a number of rows in words. */
export const counted = (count, name) => `${formatNumber(count)} ${count === 1 ? name : `${name}s`}`;

function showCollection(status) {
  const { num_images: numImages, model } = status;
  noun = nounOf(status);
  const name = bdi(model.split("/").slice(-2).join("/")); // of a path
  one("#collection").replaceChildren(`${counted(numImages, nounOf(status))} · `, name);
}

let announced = -1;
function showProgress({ progress, message }) {
  hideNotice();
  one("#loading").hidden = false;
  one("#progress").value = progress;
  const percent = Math.floor(100 * progress);
  one("#progress-text").textContent = `${message || "Loading the collection"}, ${percent} %`;
  const quarter = Math.floor(4 * progress);
  if (quarter !== announced) announce(`Loading the collection: ${percent} %`);
  announced = quarter;
}
