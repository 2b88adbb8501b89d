// Images and sounds as queries: a file that is picked, dropped anywhere on the page, or pasted.
import { upload } from "./api.js";
import { one } from "./dom.js";
import { hideNotice, showNotice } from "./notice.js";
import { addPart } from "./parts.js";
import { whenReady } from "./status.js";

/** Address of the preview of each upload, while the page is open, and the ids of sounds. */
const previews = new Map();
const sounds = new Set();
export const previewOf = (id) => previews.get(id) ?? null;
export const isSound = (id) => sounds.has(id);

export function startUpload() {
  const input = one("#file");
  one("#pick").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) searchWith(input.files[0]);
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = usableOf(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    searchWith(file);
  });
  startDrop(one("#drop"));
}

function startDrop(cover) {
  let depth = 0; // of the elements that the pointer has entered
  const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const show = (change) => {
    depth = Math.max(0, depth + change);
    cover.hidden = depth === 0;
  };
  document.addEventListener("dragenter", (event) => {
    if (hasFile(event)) show(1);
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFile(event)) show(-1);
  });
  document.addEventListener("dragover", (event) => {
    if (hasFile(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    depth = 0;
    cover.hidden = true;
    const file = usableOf(event.dataTransfer);
    if (file) searchWith(file);
    else
      showNotice(
        "The file is neither an image nor a sound. Drop an image file, such as JPEG, PNG or WebP, " +
          "or a sound file, such as WAV, FLAC, Ogg or MP3.",
      );
  });
}

const usableOf = (data) =>
  [...(data?.files ?? [])].find(
    ({ type }) => type === "" || type.startsWith("image/") || type.startsWith("audio/"),
  );

/** Upload a file and search with it; it joins a query that has parts, and replaces a plain text. */
async function searchWith(file) {
  hideNotice();
  const kind = file.type.startsWith("audio/") ? "sound" : "image";
  const summary = one("#summary");
  const before = summary.textContent;
  summary.textContent = `Uploading the ${kind}`;
  document.body.classList.add("uploading");
  try {
    await whenReady();
    const { upload: id, width_pixels: width } = await upload(file);
    if (width === null) sounds.add(id);
    previews.set(id, URL.createObjectURL(file));
    addPart({ kind: "upload", value: id, weight: 1 }, { keepText: false });
  } catch (error) {
    summary.textContent = before;
    showNotice(
      `The ${kind} was not accepted: ${error.message}`,
      error.status === 0 ? () => searchWith(file) : null,
    );
  } finally {
    document.body.classList.remove("uploading");
  }
}
