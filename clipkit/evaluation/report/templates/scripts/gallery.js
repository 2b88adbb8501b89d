// Galleries: one panel at a time, filtered by outcome and by words.
for (const gallery of all(".gallery")) {
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
    const outcome = form.elements.outcome?.value ?? "all";
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
