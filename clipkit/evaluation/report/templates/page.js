"use strict";
// The page is complete without this script, which adds tooltips, filters and the choice of colours.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector, within = document) => within.querySelector(selector);

  // Colours: follow the system until the button was used; remember the choice where that is allowed.
  const memory = {
    read() { try { return localStorage.getItem("clipkit-theme"); } catch { return null; } },
    write(theme) { try { localStorage.setItem("clipkit-theme", theme); } catch { /* private window */ } },
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = one(".theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => button.setAttribute("aria-pressed", String(isDark()));
  if (memory.read()) root.dataset.theme = memory.read();
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    memory.write(root.dataset.theme);
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // Highlight the link of the section on screen.
  const links = new Map(all(".top nav a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const [id, link] of links) {
        if (id === target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-30% 0px -65% 0px" });
  all("main > section").forEach((section) => watcher.observe(section));

  // One tooltip for all elements.
  const tip = one("#tip");
  const place = (x, y) => {
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 14), root.clientWidth - width - 8);
    const top = y - height - 12 < 8 ? y + 16 : y - height - 12;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  };
  const hide = () => { tip.hidden = true; };
  tip.style.left = tip.style.top = "0";
  for (const cell of all("[data-tip]")) {
    cell.addEventListener("pointermove", (event) => {
      tip.textContent = cell.dataset.tip;
      place(event.clientX, event.clientY);
    });
    cell.addEventListener("pointerleave", hide);
  }

  // Charts: read values with the pointer or the arrow keys.
  const show = (value, share) => share
    ? `${(100 * value).toFixed(1)} %`
    : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });
  const element = (className, parent) => {
    const made = document.createElement("div");
    made.className = className;
    parent.append(made);
    return made;
  };
  for (const plot of all("[data-chart]")) {
    const { share, frame: [left, right, bottom, top], series } = JSON.parse(plot.dataset.chart);
    const steps = [...new Set(series.flatMap(([, points]) => points.map(([step]) => step)))].sort((a, b) => a - b);
    let at = steps.length - 1;
    let marks = [];
    const clear = () => { marks.forEach((mark) => mark.remove()); marks = []; hide(); };
    const nearest = (values, wanted) => values.reduce((best, value, index) =>
      Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? index : best, 0);
    const read = (index) => {
      clear();
      at = Math.min(Math.max(index, 0), steps.length - 1);
      const x = (steps[at] - left) / (right - left);
      const cursor = element("cursor", plot);
      cursor.style.left = `${100 * x}%`;
      marks.push(cursor);
      tip.replaceChildren(`Step ${Math.round(steps[at]).toLocaleString("en")}`);
      series.forEach(([name, points], number) => {
        const [step, value] = points[nearest(points.map(([s]) => s), steps[at])];
        const dot = element(`dot s${number % 6}`, plot);
        dot.style.left = `${(100 * (step - left)) / (right - left)}%`;
        dot.style.top = `${(100 * (top - value)) / (top - bottom)}%`;
        marks.push(dot);
        const row = element("", tip);
        const swatch = document.createElement("span");
        swatch.className = `swatch s${number % 6}`;
        const figure = document.createElement("b");
        figure.textContent = show(value, share);
        row.append(swatch, name, figure);
      });
      const box = plot.getBoundingClientRect();
      place(box.left + x * box.width, box.top + box.height / 2);
    };
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      read(nearest(steps, left + ((event.clientX - box.left) / box.width) * (right - left)));
    });
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("focus", () => { if (plot.matches(":focus-visible")) read(at); });
    plot.addEventListener("blur", clear);
    plot.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 };
      if (event.key === "Escape") clear();
      if (!(event.key in moves)) return;
      event.preventDefault();
      read(moves[event.key]);
    });
  }

  // Gallery: one direction at a time, filtered by outcome and by words.
  const gallery = one("#gallery");
  if (gallery) {
    const tabs = all("[role=tab]", gallery);
    const panels = all("[role=tabpanel]", gallery);
    const form = one("form", gallery);
    const more = one(".more", gallery);
    const firstView = 12;
    let open = 0;
    let expanded = false;
    const words = new Map(all(".card", gallery).map((card) =>
      [card, [card.textContent, ...all("img", card).map((image) => image.alt)].join(" ").toLowerCase()]));
    const update = () => {
      const outcome = form.elements.outcome.value;
      const wanted = one("[type=search]", form).value.trim().toLowerCase();
      panels.forEach((panel, index) => { panel.hidden = index !== open; });
      tabs.forEach((tab, index) => {
        tab.setAttribute("aria-selected", String(index === open));
        tab.tabIndex = index === open ? 0 : -1;
      });
      const cards = all(".card", panels[open]);
      for (const radio of all("[name=outcome]", form)) {
        const count = cards.filter((card) => radio.value === "all" || card.dataset.outcome === radio.value).length;
        one(".count", radio.parentElement).textContent = count;
      }
      const fitting = cards.filter((card) =>
        (outcome === "all" || card.dataset.outcome === outcome) && words.get(card).includes(wanted));
      cards.forEach((card) => { card.hidden = true; });
      fitting.slice(0, expanded ? fitting.length : firstView).forEach((card) => { card.hidden = false; });
      one(".none-left", gallery).hidden = fitting.length > 0;
      more.hidden = expanded || fitting.length <= firstView;
      more.textContent = `Show all ${fitting.length}`;
      one("[role=status]", gallery).textContent = `${fitting.length} examples fit`;
    };
    tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => { open = index; expanded = false; update(); });
      tab.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        open = (index + (event.key === "ArrowRight" ? 1 : tabs.length - 1)) % tabs.length;
        expanded = false;
        update();
        tabs[open].focus();
      });
    });
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => { expanded = true; update(); });
    one(".controls", gallery).hidden = false;
    update();
  }

  // Copy the configuration to the clipboard.
  const copy = one(".copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(one(".config code").textContent);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Press Ctrl+C";
        getSelection().selectAllChildren(one(".config code"));
      }
    });
  }
})();
