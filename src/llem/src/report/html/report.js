"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  /* An element; what comes from the data is set as text or attribute, never as markup. */
  const make = (space, name, attributes, ...children) => {
    const element = space ? document.createElementNS(space, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const svg = (name, attributes, ...children) => make(SVG, name, attributes, ...children);
  const html = (name, attributes, ...children) => make(null, name, attributes, ...children);

  const number = (value) => {
    if (value === 0) return "0";
    const decimals = Math.min(9, Math.max(0, 3 - Math.floor(Math.log10(Math.abs(value)))));
    return value.toFixed(decimals);
  };
  const estimate = (e) => (e.length === 3 ? `${number(e[0])} [${number(e[1])}, ${number(e[2])}]` : number(e[0]));

  /* Round steps between two numbers. */
  const ticks = (low, high, wanted) => {
    const rough = (high - low) / wanted || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) || rough;
    const list = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) list.push(Number((i * step).toPrecision(12)));
    return list;
  };
  const tickText = (value) => (Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential() : String(value));
  const room = (values, fromZero) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (fromZero) low = Math.min(0, low);
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    return [fromZero && low === 0 ? 0 : low - pad, high + pad];
  };

  /* As `room`; where values are of different sizes, an axis of their logarithms, on which the small ones can be told apart, too. */
  const logFrom = 20;
  const roomByRatio = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low > 0 && high / low >= logFrom ? [low / 1.3, high * 1.3, true] : room(values);
  };
  const along = ([low, high, isLog], from, to) => {
    const at = isLog ? Math.log10 : (v) => v;
    return (v) => from + ((at(v) - at(low)) / (at(high) - at(low))) * (to - from);
  };
  const ticksOf = ([low, high, isLog], wanted) => {
    if (!isLog) return ticks(low, high, wanted);
    const steps = high / low > 300 ? [1] : high / low > 60 ? [1, 3] : [1, 2, 5];
    const list = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      list.push(...steps.map((step) => Number((step * 10 ** power).toPrecision(12))).filter((v) => v >= low && v <= high));
    }
    return list;
  };

  /* Width of a plot in a place: its own pixels, so that its text has its own size. */
  const widthOf = (box, columns = 1) => Math.max(320, Math.min(1160, Math.floor((box.clientWidth || 1160) / columns) - (columns > 1 ? 16 : 0)));

  /* A frame with axes. `x` and `y` map values to places. */
  const frame = (width, height, xs, ys, titles, margin = { left: 62, right: 14, top: 12, bottom: 42 }, xTicks) => {
    const x = along(xs, margin.left, width - margin.right);
    const y = along(ys, height - margin.bottom, margin.top);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img" });
    const axes = svg("g", { class: "axis", "aria-hidden": "true" });
    for (const tick of ticksOf(ys, 5)) {
      axes.append(svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }));
      axes.append(svg("text", { x: margin.left - 7, y: y(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of xTicks || ticksOf(xs, width > 500 ? 7 : 4).map((v) => [v, tickText(v)])) {
      axes.append(svg("text", { x: x(tick[0]), y: height - margin.bottom + 17, "text-anchor": "middle" }, tick[1]));
    }
    axes.append(svg("line", { class: "base", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }));
    axes.append(svg("text", { x: (margin.left + width - margin.right) / 2, y: height - 6, "text-anchor": "middle" }, titles[0]));
    axes.append(svg("text", { transform: `translate(13 ${(margin.top + height - margin.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, titles[1]));
    root.append(axes);
    return { root, x, y, width, height, margin };
  };

  const figureAt = (name) => data.figures.findIndex((figure) => figure.name === name);
  const axisTitle = (figure) => (figure.title.includes(figure.unit) ? figure.title : `${figure.title} (${figure.unit})`);

  /* A long name: its beginning and its end, which is what tells names apart. */
  const shortened = (text, most) => {
    const end = Math.floor((most - 1) / 3);
    return text.length > most ? `${text.slice(0, most - end - 1)}…${text.slice(text.length - end)}` : text;
  };

  const MARKS = [
    { text: "frontier", fill: "var(--accent)", stroke: "var(--accent)", shape: "circle" },
    { text: "undecided", fill: "var(--page)", stroke: "var(--warn)", shape: "diamond" },
    { text: "dominated", fill: "var(--muted)", stroke: "none", shape: "dot" },
    { text: "not compared", fill: "none", stroke: "var(--muted)", shape: "cross" },
    { text: "not valid", fill: "none", stroke: "var(--bad)", shape: "cross" },
  ];
  const markOf = (experiment) => MARKS[!experiment.v ? 4 : experiment.s === null ? 3 : experiment.s];
  const mark = (kind, x, y, size = 1) => {
    const style = { fill: kind.fill, stroke: kind.stroke, "stroke-width": 1.8 * Math.sqrt(size) };
    const [d, c] = [5.5 * size, 4 * size];
    if (kind.shape === "circle") return svg("circle", { cx: x, cy: y, r: 5 * size, ...style });
    if (kind.shape === "dot") return svg("circle", { cx: x, cy: y, r: 3.5 * size, ...style });
    if (kind.shape === "diamond") return svg("path", { d: `M${x} ${y - d}L${x + d} ${y}L${x} ${y + d}L${x - d} ${y}Z`, ...style });
    return svg("path", { d: `M${x - c} ${y - c}L${x + c} ${y + c}M${x - c} ${y + c}L${x + c} ${y - c}`, ...style });
  };

  /* Arrow keys and the pointer choose a point; what it is stands below the plot. */
  const explore = (plot, points, said) => {
    let at = -1;
    const ring = svg("circle", { r: 10, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, visibility: "hidden" });
    plot.root.append(ring);
    const show = (place) => {
      at = place;
      const point = points[at];
      ring.setAttribute("cx", point.x);
      ring.setAttribute("cy", point.y);
      ring.setAttribute("visibility", "visible");
      said.textContent = point.text;
    };
    plot.root.setAttribute("tabindex", "0");
    plot.root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Enter" && at >= 0) choose(points[at].e);
      if (!step || !points.length) return;
      event.preventDefault();
      show((at + step + points.length) % points.length);
    });
    const nearest = (event) => {
      const box = plot.root.getBoundingClientRect();
      const scale = plot.width / box.width;
      const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
      const distance = (point) => (point.x - px) ** 2 + (point.y - py) ** 2;
      let best = -1;
      points.forEach((point, place) => { if (best < 0 || distance(point) < distance(points[best])) best = place; });
      return best >= 0 && distance(points[best]) < 900 ? best : -1;
    };
    plot.root.addEventListener("pointermove", (event) => { const place = nearest(event); if (place >= 0) show(place); });
    plot.root.addEventListener("click", (event) => { const place = nearest(event); if (place >= 0) choose(points[place].e); });
  };

  /* Names beside the points, each in the first place where it covers neither a point nor another name; the others are told when chosen. */
  const nameThem = (plot, shown) => {
    const taken = shown.map((p) => [plot.x(p.x[0]) - 7, plot.y(p.y[0]) - 7, plot.x(p.x[0]) + 7, plot.y(p.y[0]) + 7]);
    const meets = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    const frontierFirst = [...shown].sort((a, b) => (a.experiment.s ?? 3) - (b.experiment.s ?? 3));
    for (const p of frontierFirst) {
      const text = shortened(p.experiment.l, 40);
      const [x, y, wide] = [plot.x(p.x[0]), plot.y(p.y[0]), text.length * 6.6];
      const places = [[9, -8], [-9, -8], [9, 15], [-9, 15]].map(([dx, dy]) => {
        const left = dx > 0 ? x + dx : x + dx - wide;
        return { x: x + dx, y: y + dy, anchor: dx > 0 ? "start" : "end", box: [left, y + dy - 10, left + wide, y + dy + 3] };
      });
      const inside = (box) => box[0] >= plot.margin.left && box[2] <= plot.width && box[1] >= 0 && box[3] <= plot.height - plot.margin.bottom;
      const free = places.find((place) => inside(place.box) && !taken.some((other) => meets(place.box, other)));
      if (!free) continue;
      taken.push(free.box);
      plot.root.append(svg("text", { class: "label", x: free.x, y: free.y, "text-anchor": free.anchor }, text));
    }
  };

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

  /* The chosen experiment, in all places that show one. */
  const selects = ["latency-experiment", "power-experiment"].map(byId).filter(Boolean);
  const runsOf = (e) => data.runs.filter((run) => run.e === e);
  let chosen = Math.max(0, data.experiments.findIndex((experiment) => experiment.s === 0));
  const drawLatency = () => { if (byId("distribution")) distribution(byId("distribution"), Number(byId("latency-kind").value), chosen); };
  const drawPower = () => { if (byId("power-plot")) power(byId("power-plot"), runsOf(chosen)[Number(byId("power-run").value) || 0]); };
  const choose = (e) => {
    chosen = e;
    for (const select of selects) select.value = String(e);
    for (const row of document.querySelectorAll("#table tbody tr")) row.classList.toggle("chosen", row.dataset.e === String(e));
    const list = byId("power-run");
    if (list) list.replaceChildren(...runsOf(e).map((run, i) => html("option", { value: i }, `cycle ${run.c}${run.v ? "" : " (not valid)"}`)));
    drawLatency();
    drawPower();
  };
  for (const select of selects) {
    select.append(...data.experiments.map((experiment, e) => html("option", { value: e }, experiment.l)));
    select.addEventListener("change", () => choose(Number(select.value)));
  }

  /* The table: sorted by a click on a head, filtered by text. */
  const table = byId("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = html("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const numeric = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
        return down ? -order : order;
      };
      rows.sort(compare);
      body.append(...rows);
    });
  });
  byId("filter")?.addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      left += !row.hidden;
    }
    byId("filtered").textContent = wanted.length ? `${left} of ${rows.length}` : "";
  });
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.e));
  });

  const pairs = byId("trade-off");
  const drawPairs = () => {
    if (!pairs) return;
    const wanted = [["output_tokens_per_s", "energy_per_output_token_j"], ["ttft_p50_ms", "energy_per_output_token_j"]];
    if (data.objectives.length >= 2) wanted.unshift([data.objectives[1], data.objectives[0]]);
    if (figureAt("energy_per_output_token_j") < 0) wanted.push(["output_tokens_per_s", "ttft_p50_ms"]);
    const done = new Set();
    pairs.replaceChildren();
    for (const [x, y] of wanted) {
      const name = [x, y].sort().join();
      if (!done.has(name)) tradeOff(pairs, x, y);
      done.add(name);
    }
  };
  if (pairs) legend(byId("trade-off-legend"));
  const effects = byId("effect-figure");
  const drawEffects = () => {
    if (!effects) return;
    byId("effects").replaceChildren();
    data.keys.forEach((_, key) => mainEffect(byId("effects"), key, Number(effects.value)));
  };
  if (effects) {
    effects.append(...data.figures.map((figure, i) => html("option", { value: i }, axisTitle(figure))));
    effects.value = String(Math.max(0, figureAt(data.objectives[0])));
    effects.addEventListener("change", drawEffects);
  }
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    drawPairs();
    drawEffects();
    drawLatency();
    drawPower();
  });
  drawPairs();
  drawEffects();
  byId("latency-kind")?.addEventListener("change", drawLatency);
  byId("power-run")?.addEventListener("change", drawPower);
  choose(chosen);
})();
