// Requests to the server. Every failure is an ApiError with one line that can be shown.

class ApiError extends Error {
  /** @param {number} status HTTP status; 0 if there was no answer. */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const NO_ANSWER =
  "The server does not answer. Check that `clipkit search serve` is still running, then try again.";
const NO_ACCESS = "The token is missing or is no longer valid. Load the page again to enter it.";

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(NO_ANSWER, 0);
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  if (response.status === 401) throw new ApiError(NO_ACCESS, 401);
  const reason =
    typeof answer?.error === "string"
      ? answer.error
      : `expected JSON, got status ${response.status}`;
  throw new ApiError(reason, response.status);
}

const send = (path, content, signal) =>
  request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal,
  });

export const fetchStatus = () => request("/api/status");
export const fetchImage = (row, signal) => request(`/api/images/${row}`, { signal });
export const fetchColumn = (name) => request(`/api/columns/${encodeURIComponent(name)}`);
export const fetchMap = (numPoints) => request(`/api/map?num_points=${numPoints}`);
export const search = (query, signal) => send("/api/search", query, signal);
export const fetchLabels = (image, labels, signal) =>
  send("/api/labels", { ...image, labels }, signal);

/** Send an image or a sound file; the answer has its id, and the width of an image. */
export const upload = (file, signal) =>
  request("/api/uploads", {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: file,
    signal,
  });

export const thumbnailUrl = (row, sizePixels = 256) =>
  `/api/images/${row}/thumbnail?size_pixels=${sizePixels}`;
export const soundUrl = (row) => `/api/images/${row}/sound`;
export const fileUrl = (row) => `/api/images/${row}/file`;
