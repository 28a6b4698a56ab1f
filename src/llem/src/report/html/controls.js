/* What the reader can choose, and the first drawing. */
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
