// Colours: those of the system until the button was used; the choice is kept where that is allowed.
import { one } from "./dom.js";

const KEY = "clipkit-theme";
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

function read() {
  try {
    const theme = localStorage.getItem(KEY);
    return theme === "light" || theme === "dark" ? theme : null;
  } catch {
    return null;
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // A private window: the choice holds for this page.
  }
}

const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

/** Call a function when the colours change. */
export function onThemeChange(listener) {
  listeners.push(listener);
}

export function startTheme() {
  const button = one("#theme");
  const show = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    for (const listener of listeners) listener();
  };
  const theme = read();
  if (theme) root.dataset.theme = theme;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    keep(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}
