// Maps of embeddings: the image of a point with the pointer or the arrow keys; one class at a time.
for (const maps of all(".maps")) {
  const images = JSON.parse(maps.dataset.images);
  const sheet = one(".sheet", maps);
  const [columns, rows] = maps.dataset.grid.split(" ").map(Number);
  const nearPixels = 22;
  for (const plot of all("[data-places]", maps)) {
    const places = JSON.parse(plot.dataset.places);
    let at = 0;
    let mark = null;
    const clear = () => { mark?.remove(); mark = null; hide(); };
    const show = (index) => {
      clear();
      at = index;
      const [caption, name, colour] = images[at];
      mark = document.createElement("div");
      mark.className = `mark s${colour}`;
      mark.style.left = `${places[at][0] / 10}%`;
      mark.style.top = `${places[at][1] / 10}%`;
      plot.append(mark);
      const image = document.createElement("div");
      image.className = "peek";
      image.style.backgroundImage = `url("${sheet.src}")`;
      image.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
      const [x, y] = [at % columns, Math.floor(at / columns)];
      image.style.backgroundPosition =
        `${columns > 1 ? (100 * x) / (columns - 1) : 0}% ${rows > 1 ? (100 * y) / (rows - 1) : 0}%`;
      const label = document.createElement("p");
      label.textContent = name;
      label.dir = "auto";
      tip.replaceChildren(image, ...(name ? [label] : []), caption);
      const box = plot.getBoundingClientRect();
      place(box.left + (places[at][0] / 1000) * box.width, box.top + (places[at][1] / 1000) * box.height);
      one("[role=status]", maps).textContent = [name, caption].filter(Boolean).join(": ");
    };
    const nearest = (x, y, box, fits) => {
      let best = -1;
      let least = Infinity;
      places.forEach(([left, top], index) => {
        const [dx, dy] = [(left / 1000) * box.width - x, (top / 1000) * box.height - y];
        if (!fits(dx, dy, index)) return;
        const distance = dx * dx + dy * dy;
        if (distance < least) [best, least] = [index, distance];
      });
      return [best, Math.sqrt(least)];
    };
    const isShown = (index) => maps.dataset.only === undefined || Number(maps.dataset.only) === images[index][2];
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      const [index, distance] = nearest(
        event.clientX - box.left, event.clientY - box.top, box, (dx, dy, index) => isShown(index));
      if (distance < nearPixels) show(index);
      else clear();
    });
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) show(at); });
    plot.addEventListener("blur", clear);
    plot.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key === "Escape") clear();
      if (!(event.key in ways)) return;
      event.preventDefault();
      const box = plot.getBoundingClientRect();
      const [wayX, wayY] = ways[event.key];
      // The next point inside a quarter of the plane that opens in the direction of the key.
      const [index] = nearest(
        (places[at][0] / 1000) * box.width, (places[at][1] / 1000) * box.height, box,
        (dx, dy, index) => index !== at && isShown(index) && dx * wayX + dy * wayY > 0 &&
          dx * wayX + dy * wayY >= Math.abs(dx * wayY - dy * wayX));
      if (index >= 0) show(index);
    });
  }
  all(".legend li", maps).forEach((item, colour) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const isOn = button.getAttribute("aria-pressed") === "true";
      all(".legend button", maps).forEach((other) => other.setAttribute("aria-pressed", "false"));
      if (isOn) delete maps.dataset.only;
      else maps.dataset.only = String(colour);
      button.setAttribute("aria-pressed", String(!isOn));
    });
  });
}
