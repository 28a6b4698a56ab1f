/* The plots. */
/* One figure against another, with intervals; the frontier of the objectives is joined. */
const tradeOff = (box, xName, yName) => {
  const [xi, yi] = [figureAt(xName), figureAt(yName)];
  if (xi < 0 || yi < 0) return;
  const shown = data.experiments.map((experiment, e) => ({ experiment, e, x: experiment.f[xi], y: experiment.f[yi] })).filter((p) => p.x && p.y);
  if (!shown.length) return;
  const [xs, ys] = [roomByRatio(shown.flatMap((p) => p.x)), roomByRatio(shown.flatMap((p) => p.y))];
  const title = (i, range) => `${axisTitle(data.figures[i])}${range[2] ? ", logarithmic" : ""}`;
  const plot = frame(widthOf(box, box.clientWidth > 900 ? 2 : 1), 360, xs, ys, [title(xi, xs), title(yi, ys)]);
  const compared = data.objectives.length === 2 && data.objectives.includes(xName) && data.objectives.includes(yName);
  if (compared) {
    const front = shown.filter((p) => p.experiment.s === 0).sort((a, b) => a.x[0] - b.x[0]);
    const line = front.map((p, i) => `${i ? "L" : "M"}${plot.x(p.x[0])} ${plot.y(p.y[0])}`).join("");
    plot.root.append(svg("path", { d: line, fill: "none", stroke: "var(--accent)", "stroke-width": 1.2, "stroke-dasharray": "5 4" }));
  }
  if (shown.length <= 300) { // as DRAWN_INTERVALS of sections.rs
    for (const p of shown) {
      const [x, y] = [plot.x(p.x[0]), plot.y(p.y[0])];
      const bar = { stroke: "var(--muted)", "stroke-width": 1 };
      if (p.x.length === 3) plot.root.append(svg("line", { x1: plot.x(p.x[1]), x2: plot.x(p.x[2]), y1: y, y2: y, ...bar }));
      if (p.y.length === 3) plot.root.append(svg("line", { x1: x, x2: x, y1: plot.y(p.y[1]), y2: plot.y(p.y[2]), ...bar }));
    }
  }
  const order = [...shown].sort((a, b) => (b.experiment.s ?? 3) - (a.experiment.s ?? 3));
  /* Many marks are small, but those of the frontier. */
  const crowd = Math.min(1, Math.max(0.5, Math.sqrt(120 / shown.length)));
  for (const p of order) plot.root.append(mark(markOf(p.experiment), plot.x(p.x[0]), plot.y(p.y[0]), p.experiment.s === 0 ? 1 : crowd));
  if (shown.length <= 12) nameThem(plot, shown);
  plot.root.setAttribute("aria-label", `${data.figures[yi].title} against ${data.figures[xi].title}, ${shown.length} experiments; arrow keys go through the points`);
  const said = html("p", { class: "said", "aria-live": "polite" });
  const text = (p) => `${p.experiment.l}: ${estimate(p.x)} ${data.figures[xi].unit}, ${estimate(p.y)} ${data.figures[yi].unit} (${markOf(p.experiment).text})`;
  const points = [...shown].sort((a, b) => a.x[0] - b.x[0]).map((p) => ({ x: plot.x(p.x[0]), y: plot.y(p.y[0]), e: p.e, text: text(p) }));
  explore(plot, points, said);
  const better = (i) => (data.figures[i].more ? "more" : "less");
  const caption = html("figcaption", {}, `${data.figures[yi].title} (${better(yi)} is better) against ${data.figures[xi].title} (${better(xi)} is better)`);
  box.append(html("figure", {}, caption, plot.root, said));
};

const legend = (box) => {
  const used = MARKS.filter((kind) => data.experiments.some((experiment) => markOf(experiment) === kind));
  box.append(...used.map((kind) => html("li", {}, svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, mark(kind, 7, 7)), kind.text)));
};

/* Every experiment by the value of one key, and the mean of each value. */
const mainEffect = (box, key, figure) => {
  const { name, values } = data.keys[key];
  const groups = values.map((_, v) => data.experiments.map((experiment, e) => ({ experiment, e })).filter((p) => p.experiment.k[key] === v && p.experiment.f[figure]));
  const all = groups.flat().map((p) => p.experiment.f[figure][0]);
  if (!all.length) return;
  const columns = Math.max(1, Math.floor(box.clientWidth / 336));
  /* As many names of values as stand beside each other. */
  const names = values.map((value) => shortened(value, 14));
  const widest = Math.max(...names.map((text) => text.length)) * 6.8 + 10;
  const every = Math.ceil((values.length * widest) / (widthOf(box, columns) - 76));
  const labels = names.map((text, v) => [v, v % every ? "" : text]);
  const plot = frame(widthOf(box, columns), 260, [-0.5, values.length - 0.5], room(all, true), [name, axisTitle(data.figures[figure])], undefined, labels);
  /* Experiments without a valid run are shown, and in no mean, unless there is nothing else. */
  const anyValid = groups.flat().some((p) => p.experiment.v);
  const counts = (group) => group.filter((p) => p.experiment.v || !anyValid);
  const mean = (group) => counts(group).reduce((sum, p) => sum + p.experiment.f[figure][0], 0) / counts(group).length;
  const line = groups.map((group, v) => ({ group, v })).filter((g) => counts(g.group).length);
  /* What else was varied must be the same at each value, or the means differ by that, too. */
  const others = (g) => counts(g.group).map((p) => p.experiment.k.map((place, other) => (other === key ? "" : place)).join()).sort().join(";");
  const uneven = new Set(line.map(others)).size > 1;
  const points = [];
  groups.forEach((group, v) => {
    group.forEach((p, i) => {
      const value = p.experiment.f[figure][0];
      const x = plot.x(v + (group.length > 1 ? ((i / (group.length - 1)) - 0.5) * 0.36 : 0));
      plot.root.append(svg("circle", { cx: x, cy: plot.y(value), r: 2.6, fill: p.experiment.v ? "var(--muted)" : "none", stroke: "var(--muted)", opacity: 0.65 }));
      points.push({ x, y: plot.y(value), e: p.e, text: `${p.experiment.l}: ${estimate(p.experiment.f[figure])} ${data.figures[figure].unit}${p.experiment.v ? "" : " (not valid)"}` });
    });
  });
  const path = line.map((g, i) => `${i ? "L" : "M"}${plot.x(g.v)} ${plot.y(mean(g.group))}`).join("");
  plot.root.append(svg("path", { d: path, fill: "none", stroke: "var(--series)", "stroke-width": 2 }));
  for (const g of line) plot.root.append(svg("circle", { cx: plot.x(g.v), cy: plot.y(mean(g.group)), r: 4, fill: "var(--series)" }));
  const means = line.map((g) => `${values[g.v]}: ${number(mean(g.group))}`).join(", ");
  plot.root.setAttribute("aria-label", `Mean ${data.figures[figure].title} by ${name}: ${means}`);
  const said = html("p", { class: "said", "aria-live": "polite" });
  explore(plot, points, said);
  box.append(html("figure", {}, html("figcaption", {}, `${data.figures[figure].title} by ${name}; line: mean over all other keys${uneven ? ", which are not the same at each value: part of a difference may be theirs" : ""}`), plot.root, said));
};

const stepsPath = (plot, steps) => steps.map((value, i) => `${i ? "L" : "M"}${plot.x(value)} ${plot.y((100 * i) / (steps.length - 1))}`).join("");

/* Share of requests that were at most so slow: the chosen experiment before all others. */
const distribution = (box, latency, chosen) => {
  const others = data.experiments.map((experiment, e) => ({ e, q: experiment.q[latency] })).filter((p) => p.q.length);
  const own = data.experiments[chosen] && data.experiments[chosen].q[latency];
  if (!others.length) { box.replaceChildren(html("p", { class: "muted" }, "No requests of this study are known.")); return; }
  const every = Math.ceil(others.length / 80);
  const drawn = others.filter((p, i) => i % every === 0 && p.e !== chosen);
  const last = Math.max(...others.map((p) => p.q[p.q.length - 1]));
  const plot = frame(widthOf(box), 300, [0, last * 1.03], [0, 104], [`${byId("latency-kind").selectedOptions[0].textContent}, ms`, "% of requests"]);
  for (const p of drawn) plot.root.append(svg("path", { d: stepsPath(plot, p.q), fill: "none", stroke: "var(--muted)", opacity: 0.35, "stroke-width": 1.2 }));
  if (own && own.length) plot.root.append(svg("path", { d: stepsPath(plot, own), fill: "none", stroke: "var(--accent)", "stroke-width": 2.4 }));
  const label = data.experiments[chosen].l;
  plot.root.setAttribute("aria-label", `Distribution of ${data.latencies[latency]} over requests, ${label} among ${others.length} experiments`);
  const note = every > 1 ? `; of the others, one in ${every}` : "";
  const before = others.length > 1 ? `, before all others${note}` : "";
  box.replaceChildren(html("figure", {}, html("figcaption", {}, `${label}${before}`), plot.root));
  const p = data.experiments[chosen].p[latency];
  if (!p.length) return;
  const head = html("tr", {}, html("th", { scope: "col" }, "percentile"), ...["p50", "p90", "p95", "p99"].map((name) => html("th", { scope: "col", class: "n" }, name)));
  const row = (name, cell) => html("tr", {}, html("th", { scope: "row" }, name), ...p.map((e) => html("td", { class: "n" }, cell(e))));
  const limits = (e) => (e.length === 3 ? `${number(e[1])} – ${number(e[2])}` : data.experiments[chosen].v ? "too few requests" : "not of valid runs");
  const table = html("table", {}, html("thead", {}, head), html("tbody", {}, row("ms", (e) => number(e[0])), row("95 % interval", limits)));
  box.append(html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Percentiles" }, table), html("p", { class: "muted" }, `${data.experiments[chosen].n} requests of ${data.experiments[chosen].v ? "valid runs" : "runs that are not valid"}, taken together; the intervals are those of independent requests.`));
};

const SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const unpack = (curve) => {
  const at = (place) => (SIGNS.indexOf(curve.b[place]) * 64 + SIGNS.indexOf(curve.b[place + 1])) / 4094 * curve.m;
  const stretches = [];
  for (let place = 0; place < curve.b.length; place += 4) {
    stretches.push(curve.b.slice(place, place + 4) === "////" ? null : [at(place), at(place + 2)]);
  }
  return stretches;
};

/* Power of one run over its phases. */
const power = (box, run) => {
  if (!run) { box.replaceChildren(html("p", { class: "muted" }, "The phases of this experiment's runs are not known.")); return; }
  const highest = Math.max(...run.d.map((curve) => curve.m), 0);
  const margin = { left: 62, right: 14, top: 30, bottom: 42 };
  const plot = frame(widthOf(box), 340, [0, run.t || 1], [0, highest * 1.08 || 1], ["seconds since the first phase", highest ? "W" : ""], margin);
  const [top, bottom] = [margin.top, plot.height - margin.bottom];
  if (run.w) plot.root.append(svg("rect", { x: plot.x(run.w[0]), y: top, width: Math.max(1, plot.x(run.w[1]) - plot.x(run.w[0])), height: bottom - top, fill: "var(--accent-soft)" }));
  for (const [phase, from, to] of run.p) {
    const [x1, x2] = [plot.x(from), plot.x(to)];
    const name = data.phases[phase];
    plot.root.append(svg("line", { x1, x2: x1, y1: top - 4, y2: bottom, stroke: "var(--line)", "stroke-dasharray": "2 3" }));
    if (x2 - x1 > name.length * 6.6 + 6) plot.root.append(svg("text", { x: (x1 + x2) / 2, y: top - 9, "text-anchor": "middle", class: name === "window" ? "label" : "" }, name));
  }
  const colours = ["var(--accent)", "var(--series)", "var(--good)", "var(--bad)", "var(--muted)"];
  run.d.forEach((curve, i) => {
    const stretches = unpack(curve);
    const wide = run.t / stretches.length;
    const colour = colours[i % colours.length];
    let line = "", band = "", broken = true;
    stretches.forEach((s, place) => {
      if (!s) { broken = true; return; }
      const [x1, x2] = [plot.x(place * wide), plot.x((place + 1) * wide)];
      const [high, low] = [plot.y(s[1]), plot.y(s[0])];
      line += `${broken ? "M" : "L"}${((x1 + x2) / 2).toFixed(1)} ${((high + low) / 2).toFixed(1)}`;
      band += `M${x1.toFixed(1)} ${high.toFixed(1)}H${x2.toFixed(1)}V${Math.max(low, high + 1).toFixed(1)}H${x1.toFixed(1)}Z`;
      broken = false;
    });
    plot.root.append(svg("path", { d: band, fill: colour, opacity: 0.45 }), svg("path", { d: line, fill: "none", stroke: colour, "stroke-width": 1.4 }));
  });
  const phases = run.p.map(([phase, from, to]) => `${data.phases[phase]} ${number(to - from)} s`).join(", ");
  plot.root.setAttribute("aria-label", `Power of ${run.r} over ${number(run.t)} s; phases: ${phases}`);
  const names = html("ul", { class: "legend" }, ...run.d.map((curve, i) => html("li", {}, svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("rect", { width: 14, height: 14, fill: colours[i % colours.length] })), `${data.domains[curve.n]}, peak ${number(curve.m)} W`)));
  const sensors = run.d.length ? "band: lowest to highest sample, as read; shaded: the window" : "no power samples; shaded: the window";
  const caption = html("figcaption", {}, `${run.r}${run.v ? "" : " (not valid)"} – ${sensors}`);
  box.replaceChildren(html("figure", {}, caption, plot.root, names), html("p", { class: "muted" }, `Phases: ${phases}.`));
};
