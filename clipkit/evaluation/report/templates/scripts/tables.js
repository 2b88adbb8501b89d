// Sortable tables: each heading becomes a button. Of long tables the first rows are shown.
for (const table of all("table[data-sortable]")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const firstView = Number(table.dataset.sortable);
  const more = one(".more", table.closest(".sortable"));
  let expanded = rows.length <= firstView;
  const update = () => {
    [...body.rows].forEach((row, index) => { row.hidden = !expanded && index >= firstView; });
    more.hidden = expanded;
    more.textContent = `Show all ${rows.length}`;
  };
  const valueOf = (row, column) => {
    const text = row.cells[column].dataset.value;
    return text === undefined ? row.cells[column].textContent.trim().toLowerCase() : Number(text);
  };
  const isMissing = (value) => typeof value === "number" && value < 0;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const isText = rows[0].cells[column].dataset.value === undefined;
      const now = heading.getAttribute("aria-sort");
      const order = now === "none" ? (isText ? "ascending" : "descending") : now === "ascending" ? "descending" : "ascending";
      [...table.tHead.rows[0].cells].forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((first, second) => {
        const [a, b] = [valueOf(first, column), valueOf(second, column)];
        if (isMissing(a) !== isMissing(b)) return isMissing(a) ? 1 : -1;
        return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
      });
      body.append(...rows);
      update();
    });
  });
  more.addEventListener("click", () => { expanded = true; update(); });
  update();
}
