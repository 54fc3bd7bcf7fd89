// Predicted figures with their intervals, memory by part, and what lies behind them.

import { h, s } from "./dom.js";
import { digits, interval, middle, percent, si } from "./format.js";
import { logEnds, logScale } from "./scales.js";

const CARDS = [
  ["ttft", "Time to first token"],
  ["tpot", "Time per output token"],
  ["tokens_per_s", "Throughput"],
  ["energy_per_token", "Energy per token"],
  ["e2e", "Whole request"],
];
const PARTS = ["weights", "cache", "activations", "other"];
const LABELS = {
  measured: "measured on this machine",
  calibrated: "from a calibration of this machine",
  datasheet: "from data sheets and fitted efficiencies",
  "not validated": "no prediction for this kind of machine was ever measured",
};

export function showFigures(place, result, pinned) {
  place.replaceChildren(
    ...CARDS.map(([name, title]) =>
      card(title, result.figures[name], pinned?.figures[name], result.missing[name]),
    ),
    h(
      "p",
      { class: "soft label" },
      h("span", { class: "badge" }, result.confidence),
      ` ${LABELS[result.confidence]}. Bars: ${result.intervals}.`,
    ),
  );
}

function card(title, figure, other, missing) {
  return h(
    "div",
    { class: "panel card" },
    h("h3", {}, title),
    h("p", { class: "value" }, middle(figure)),
    h("p", { class: "soft range" }, figure ? interval(figure) : missing),
    figure ? bars(title, figure, other) : null,
    other
      ? h(
          "p",
          { class: "pinned-value" },
          `pinned ${middle(other)}`,
          figure ? h("span", {}, times(figure.mid, other.mid)) : null,
        )
      : null,
  );
}

const times = (mine, other) => ` · this is ${digits(mine / other)}×`;

/** Low, middle and high on a logarithmic line, and those of the pinned choice below. */
function bars(title, figure, other) {
  const width = 220;
  const all = [figure, other].filter(Boolean).flatMap((f) => [f.low, f.mid, f.high]);
  const x = logScale(...logEnds(all, 4, 1.3), 0, width);
  const bar = (f, y, name) =>
    s(
      "g",
      { class: name },
      s("rect", {
        x: x.at(f.low),
        width: Math.max(2, x.at(f.high) - x.at(f.low)),
        y: y - 5,
        height: 10,
        rx: 2,
      }),
      s("line", { x1: x.at(f.mid), x2: x.at(f.mid), y1: y - 8, y2: y + 8 }),
    );
  const told = `${title}: ${middle(figure)}${interval(figure) ? `, between ${interval(figure).replace("–", "and")}` : ""}`;
  return s(
    "svg",
    {
      class: "bars",
      viewBox: `0 0 ${width} ${other ? 42 : 22}`,
      role: "img",
      "aria-label": told,
      preserveAspectRatio: "none",
    },
    s("line", { class: "track", x1: 0, x2: width, y1: 11, y2: 11 }),
    bar(figure, 11, "mine"),
    other ? bar(other, 32, "other") : null,
  );
}

export function showMemory(place, result, pinned) {
  const most = Math.max(
    ...[result, pinned].filter(Boolean).map((r) => Math.max(r.memory.capacity ?? 0, r.memory.total)),
  );
  place.replaceChildren(
    h("h2", {}, "Memory of each device, by part"),
    memoryBar("this choice", result.memory, most),
    pinned ? memoryBar("pinned", pinned.memory, most) : "",
    h(
      "ul",
      { class: "legend" },
      PARTS.filter((part) => result.memory[part]).map((part) =>
        h("li", { class: part }, h("span", { class: "key" }), `${part} ${si(result.memory[part], "B")}`),
      ),
    ),
  );
}

function memoryBar(name, memory, most) {
  const share = (value) => (value / most) * 1000;
  let at = 0;
  const rects = PARTS.map((part) => {
    const rect = s("rect", { class: part, x: at, width: share(memory[part]), y: 0, height: 18 });
    at += share(memory[part]);
    return rect;
  });
  const capacity = memory.capacity;
  const told = capacity
    ? `${si(memory.total, "B")} of ${si(capacity, "B")} (${percent(memory.total / capacity)})`
    : si(memory.total, "B");
  return h(
    "div",
    { class: "memory-bar" },
    h("p", {}, h("span", {}, name), h("span", { class: "soft" }, told)),
    s(
      "svg",
      {
        viewBox: "0 0 1000 18",
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Memory, ${name}: ${told}`,
      },
      s("rect", { class: "room", x: 0, width: share(capacity ?? memory.total), y: 0, height: 18 }),
      rects,
    ),
  );
}

/** unpin: called by the button beside the pinned choice. */
export function showDetails(place, { fragment, result }, pinned, unpin) {
  const ops = result.breakdown.filter((op) => op.share >= 0.005);
  const derived = Object.entries(result.derived);
  place.replaceChildren(
    h("h2", {}, "Behind the figures"),
    pinned ? pinnedRow(pinned, unpin) : "",
    h(
      "div",
      { class: "columns" },
      h("div", {}, h("h3", {}, "Time by kind of op"), h("dl", { class: "shares" }, ops.flatMap(share))),
      h("div", {}, h("h3", {}, "Decided by the engine"), h("dl", {}, derived.flatMap(decision))),
    ),
    h("h3", {}, "The same on the command line"),
    h("pre", { tabindex: "0", class: "command", "aria-label": "Command" }, command(fragment)),
  );
}

function share(op) {
  const bound = op.bound === "unknown" ? "" : op.bound;
  const told = [h("span", {}, percent(op.share)), h("span", { class: "soft" }, bound)];
  return [h("dt", {}, op.kind), h("dd", {}, meter(op.share), told)];
}

function decision([name, value]) {
  return [
    h("dt", {}, name.replaceAll("_", " ")),
    h("dd", {}, name.endsWith("bytes") ? si(value, "B") : String(value)),
  ];
}

function meter(share) {
  return s(
    "svg",
    { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { x: 0, y: 0, width: 100, height: 8, class: "room" }),
    s("rect", { x: 0, y: 0, width: share * 100, height: 8, class: "fill" }),
  );
}

function pinnedRow(pinned, unpin) {
  const button = h("button", { type: "button", class: "quiet", onclick: unpin }, "Unpin");
  return h("p", { class: "pinned-row" }, h("span", {}, "Pinned: ", describe(pinned)), button);
}

const describe = ({ fragment, result }) => {
  const { concurrency, rate } = fragment.workload;
  const { tp, pp, dp } = fragment.parallel;
  const many = tp * pp * dp;
  const where = `${many > 1 ? `${many} × ` : ""}${fragment.device}`;
  const load = rate ? `${rate} requests/s` : `${concurrency} at a time`;
  return `${fragment.model} on ${where}, ${result.label}, ${load}`;
};

/** What `twofold predict` takes to say the same. */
function command({ model, device, precision, parallel, techniques, workload, engine }) {
  const words = ["twofold predict", `--model ${model}`, `--device ${device}`];
  for (const [name, degree] of Object.entries(parallel)) if (degree > 1) words.push(`--${name} ${degree}`);
  for (const [name, value] of Object.entries(workload)) words.push(`--${name} ${value}`);
  if (precision !== "auto") words.push(`--precision ${precision}`);
  if (engine.serving !== "plain") words.push(`--serving ${engine.serving}`);
  if (engine.weights !== "auto") words.push(`--weights ${engine.weights}`);
  if (engine.cache_format !== "auto") words.push(`--cache-format ${engine.cache_format}`);
  for (const { name, params } of techniques) {
    const given = Object.entries(params)
      .map(([key, value]) => `${key}=${value}`)
      .join(",");
    words.push(`--technique ${given ? `'${name}:${given}'` : name}`);
  }
  return words.join(" \\\n  ");
}
