/* Elements, scales, axes, marks: what all plots are made of. */
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
