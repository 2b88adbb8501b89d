// Charts: read values with the pointer or the arrow keys.
{
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
    const { share, log, x: xTitle, frame: [left, right, bottom, top], series } = JSON.parse(plot.dataset.chart);
    const scaled = (x) => (log ? Math.log10(x) : x);
    const across = (x) => (scaled(x) - scaled(left)) / ((scaled(right) - scaled(left)) || 1);
    const steps = [...new Set(series.flatMap(([, points]) => points.map(([step]) => step)))].sort((a, b) => a - b);
    let at = steps.length - 1;
    let marks = [];
    const clear = () => { marks.forEach((mark) => mark.remove()); marks = []; hide(); };
    const nearest = (values, wanted) => values.reduce((best, value, index) =>
      Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? index : best, 0);
    const read = (index) => {
      clear();
      at = Math.min(Math.max(index, 0), steps.length - 1);
      const x = across(steps[at]);
      const cursor = element("cursor", plot);
      cursor.style.left = `${100 * x}%`;
      marks.push(cursor);
      tip.replaceChildren(`${xTitle} ${Number(steps[at].toPrecision(6)).toLocaleString("en")}`);
      series.forEach(([name, points, colour]) => {
        const [step, value] = points[nearest(points.map(([s]) => s), steps[at])];
        const dot = element(`dot s${colour % 6}`, plot);
        dot.style.left = `${100 * across(step)}%`;
        dot.style.top = `${(100 * (top - value)) / (top - bottom)}%`;
        marks.push(dot);
        const row = element("", tip);
        const swatch = document.createElement("span");
        swatch.className = `swatch s${colour % 6}`;
        const figure = document.createElement("b");
        figure.textContent = show(value, share);
        row.append(swatch, name, figure);
      });
      const box = plot.getBoundingClientRect();
      place(box.left + x * box.width, box.top + box.height / 2);
    };
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      read(nearest(steps.map(across), (event.clientX - box.left) / box.width));
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
}
