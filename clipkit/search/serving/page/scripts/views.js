// The two views of the page, results and map, and the links between them.
import { all, one } from "./dom.js";
import { EMPTY, onChange, update } from "./state.js";
import { whenReady } from "./status.js";

export function startViews() {
  for (const link of all("[data-view]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      update({ view: link.dataset.view });
    });
  }
  one(".brand").addEventListener("click", (event) => {
    event.preventDefault();
    update(EMPTY);
  });
  onChange((next) => show(next.view === "map"));
  hideMap();
}

/** Leave out the way to the map, which shows images, if no image is embedded. */
async function hideMap() {
  const { modalities } = await whenReady();
  if (!modalities.includes("image")) one('[data-view="map"]').hidden = true;
}

function show(isMap) {
  one("#map-view").hidden = !isMap;
  one("#grid-view").hidden = isMap;
  for (const link of all("[data-view]")) {
    if ((link.dataset.view === "map") === isMap) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
