// Messages about a failure: what happened, and what can be done.
import { button, ICONS, make, one } from "./dom.js";

/** Show why something failed. `retry` adds a button that does it again. */
export function showNotice(text, retry = null) {
  const box = one("#notice");
  box.replaceChildren(make("p", {}, text));
  if (retry) {
    box.append(
      button({ text: "Try again", className: "secondary" }, () => {
        hideNotice();
        retry();
      }),
    );
  }
  box.append(
    button({ label: "Close the message", path: ICONS.close, className: "icon" }, hideNotice),
  );
  box.hidden = false;
}

export function hideNotice() {
  one("#notice").hidden = true;
}
