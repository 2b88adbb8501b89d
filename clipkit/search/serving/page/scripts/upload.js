// Images as queries: a file that is picked, dropped anywhere on the page, or pasted.
import { upload } from "./api.js";
import { one } from "./dom.js";
import { hideNotice, showNotice } from "./notice.js";
import { addPart } from "./parts.js";
import { whenReady } from "./status.js";

/** Address of the preview of each upload, while the page is open. */
const previews = new Map();
export const previewOf = (id) => previews.get(id) ?? null;

export function startUpload() {
  const input = one("#file");
  one("#pick").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) searchWith(input.files[0]);
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    const file = imageOf(event.clipboardData);
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
    const file = imageOf(event.dataTransfer);
    if (file) searchWith(file);
    else showNotice("The file is not an image. Drop a JPEG, PNG, WebP, GIF or other image file.");
  });
}

const imageOf = (data) =>
  [...(data?.files ?? [])].find((file) => file.type === "" || file.type.startsWith("image/"));

/** Upload a file and search with it; it joins a query that has parts, and replaces a plain text. */
async function searchWith(file) {
  hideNotice();
  const summary = one("#summary");
  const before = summary.textContent;
  summary.textContent = "Uploading the image";
  document.body.classList.add("uploading");
  try {
    await whenReady();
    const { upload: id } = await upload(file);
    previews.set(id, URL.createObjectURL(file));
    addPart({ kind: "upload", value: id, weight: 1 }, { keepText: false });
  } catch (error) {
    summary.textContent = before;
    showNotice(
      `The image was not accepted: ${error.message}`,
      error.status === 0 ? () => searchWith(file) : null,
    );
  } finally {
    document.body.classList.remove("uploading");
  }
}
