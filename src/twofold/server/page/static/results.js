// The results database: filter, sort, choose, compare.

import { getJson } from "./api.js";
import { showComparison } from "./comparison.js";
import { $, h, labelled, select } from "./dom.js";
import { middle, si, signed, UNKNOWN } from "./format.js";
import { SortedTable } from "./table.js";

const FILTERS = [
  ["kind", "Kind"],
  ["model", "Model"],
  ["device", "Device"],
  ["technique", "Technique"],
];
const KIND = { run: "measured", predict: "predicted" };
const chosen = new Set();
let results = [];
let table;

export function startResults() {
  table = new SortedTable(
    $("results-table"),
    "Results",
    columns(),
    columns().findIndex((c) => c.title === "When"),
    true,
  );
  load();
  return { shown: load };
}

async function load() {
  $("results-alert").replaceChildren();
  try {
    const found = await getJson("/api/results");
    const same = found.results.length === results.length && found.results[0]?.id === results[0]?.id;
    if (same && results.length) return;
    results = found.results;
    makeFilters();
    filter();
    if (!results.length) {
      $("results-table").replaceChildren(
        h(
          "p",
          { class: "soft none" },
          `Nothing in ${found.path} yet: twofold run, predict and compare keep their results there.`,
        ),
      );
    }
  } catch (error) {
    $("results-alert").replaceChildren(h("p", { class: "alert", role: "alert" }, error.message));
  }
}

function columns() {
  const figure = (title, name, down = false) => ({
    title,
    down,
    key: (r) => r[name]?.mid ?? null,
    cell: (r) => middle(r[name]),
  });
  return [
    { title: h("span", { class: "hidden" }, "Choose"), left: true, cell: chooser },
    { title: "Techniques", head: true, left: true, key: (r) => r.label, cell: named },
    { title: "Model", left: true, wide: true, key: (r) => r.model, cell: (r) => r.model },
    { title: "Device", left: true, wide: true, key: (r) => r.device, cell: (r) => r.device },
    { title: "Kind", left: true, wide: true, key: (r) => r.kind, cell: (r) => KIND[r.kind] },
    figure("TTFT", "ttft"),
    figure("TPOT", "tpot"),
    figure("Throughput", "tokens_per_s", true),
    { title: "Memory", key: (r) => r.memory.mid, cell: (r) => si(r.memory.mid, "B") },
    figure("Energy", "energy_per_token"),
    {
      title: "KL, nat",
      key: (r) => r.kl?.mid ?? null,
      cell: (r) => (r.kl ? middle(r.kl).replace(" nat", "") : UNKNOWN),
    },
    {
      title: "TPOT error",
      key: (r) => off(r) && Math.abs(off(r)),
      cell: (r) => (off(r) === null ? UNKNOWN : signed(off(r))),
    },
    { title: "Comparison", key: (r) => r.comparison, cell: comparisonLink },
    {
      title: "When",
      left: true,
      down: true,
      key: (r) => r.created,
      cell: (r) => r.created.slice(0, 16).replace("T", " "),
    },
    { title: "Load", left: true, key: (r) => r.load, cell: (r) => r.load },
  ];
}

/** By how much the time per token of a measurement was predicted wrong; null where it was not predicted. */
const off = (row) => row.error.tpot ?? null;

/** The row's header; on a narrow screen it also says what has no column there. */
function named(row) {
  return [row.label, h("span", { class: "narrow soft" }, `${row.model} on ${row.device}, ${KIND[row.kind]}`)];
}

function chooser(row) {
  const box = h("input", {
    type: "checkbox",
    checked: chosen.has(row.id),
    "aria-label": `Choose result ${row.id}, ${row.label} on ${row.device}`,
  });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(row.id);
    else chosen.delete(row.id);
    tellChosen();
  });
  return box;
}

function comparisonLink(row) {
  if (row.comparison === null) return UNKNOWN;
  const open = () => compare(`/api/comparisons/${row.comparison}`);
  return h(
    "button",
    { type: "button", class: "link", "aria-label": `Open comparison ${row.comparison}`, onclick: open },
    String(row.comparison),
  );
}

function makeFilters() {
  const values = (name) => {
    const found = results.flatMap((r) => (name === "technique" ? r.techniques : [r[name]]));
    return [["", "all"], ...[...new Set(found)].sort().map((v) => [v, KIND[v] ?? v])];
  };
  const text = h("input", { id: "filter-text", type: "search", placeholder: "Any words", oninput: filter });
  $("results-filters").replaceChildren(
    labelled("Search", text, "text"),
    ...FILTERS.map(([name, title]) =>
      labelled(title, select(`filter-${name}`, values(name), "", filter), name),
    ),
    h(
      "div",
      { class: "field actions" },
      h("button", { type: "button", id: "compare", onclick: compareChosen }),
      h("button", { type: "button", class: "quiet", onclick: clear }, "Clear"),
    ),
  );
  tellChosen();
}

function clear() {
  chosen.clear();
  for (const control of $("results-filters").querySelectorAll("input, select")) control.value = "";
  filter();
  tellChosen();
}

function filter() {
  const words = $("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = FILTERS.map(([name]) => [name, $(`filter-${name}`).value]).filter(([, v]) => v);
  const text = (r) => `${KIND[r.kind]} ${r.model} ${r.device} ${r.label} ${r.load}`.toLowerCase();
  const fits = (r) =>
    wanted.every(([name, v]) => (name === "technique" ? r.techniques.includes(v) : r[name] === v)) &&
    words.every((word) => text(r).includes(word));
  const shown = results.filter(fits);
  table.show(shown);
  $("results-count").textContent =
    shown.length === results.length ? `${results.length} kept` : `${shown.length} of ${results.length}`;
}

function tellChosen() {
  const button = $("compare");
  button.disabled = chosen.size === 0;
  button.textContent = chosen.size > 1 ? `Compare ${chosen.size} chosen` : "Show chosen";
}

function compareChosen() {
  const ids = results
    .map((r) => r.id)
    .filter((id) => chosen.has(id))
    .sort((a, b) => a - b);
  compare(`/api/results/compare?${ids.map((id) => `ids=${id}`).join("&")}`);
}

async function compare(path) {
  const place = $("comparison");
  place.replaceChildren(h("p", { class: "soft" }, "Drawing …"));
  try {
    showComparison(place, await getJson(path));
    place.scrollIntoView({ block: "start", behavior: "smooth" });
  } catch (error) {
    place.replaceChildren(h("p", { class: "alert", role: "alert" }, error.message));
  }
}
