// What is searched for, in a collection with more than images.
import { make, one } from "./dom.js";
import { onChange, state, update } from "./state.js";
import { whenReady } from "./status.js";

export async function startFind() {
  const { modalities } = await whenReady();
  if (modalities.length < 2) return;
  const label = one("#find");
  const list = one("select", label);
  list.append(...modalities.map((name) => make("option", { value: name }, `${name}s`)));
  const show = () => {
    list.value = state.find || modalities[0];
  };
  list.addEventListener("change", () =>
    update({ find: list.value === modalities[0] ? "" : list.value, image: null }),
  );
  onChange(show);
  show();
  label.hidden = false;
}
