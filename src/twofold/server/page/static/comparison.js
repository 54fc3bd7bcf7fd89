// A comparison of results: what they say, prediction against measurement, and the plots of the reports.

import { h } from "./dom.js";
import { middle, signed, UNKNOWN } from "./format.js";
import { send } from "./api.js";
import { changed, shownTheme } from "./theme.js";

const FIGURES = [
  ["ttft", "TTFT"],
  ["tpot", "TPOT"],
  ["e2e", "End to end"],
  ["tokens_per_s", "Throughput"],
];
let palette = null;
let drawn = []; // [image, svg] of what is shown
changed.addEventListener("theme", () => drawn.forEach(colour));

export async function showComparison(place, found) {
  palette ??= await (await send("/page/theme.css")).text();
  const both = found.rows.some((row) => row.measured && row.predicted);
  place.replaceChildren(
    h("h2", { class: "comparison-title" }, `${found.title}: ${found.model} on ${found.device}`),
    h("p", { class: "soft" }, found.workload),
    ...found.notes.map((note) => h("p", { class: "alert note" }, note)),
    found.summary.length
      ? h(
          "ul",
          { class: "summary" },
          found.summary.map((sentence) => h("li", {}, sentence)),
        )
      : "",
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Predicted against measured" },
      table(found, both),
    ),
    h("div", { class: "pictures" }, found.pictures.map(picture)),
  );
  drawn = [...place.querySelectorAll("img")].map((image, i) => [image, found.pictures[i].svg]);
  drawn.forEach(colour);
}

function table(found, both) {
  const heads = FIGURES.flatMap(([name, title]) => {
    const error = found.median_error[name];
    const median =
      typeof error === "number"
        ? h("span", { class: "soft" }, `median ${signed(error).replace("+", "")}`)
        : "";
    return both ? [title, "predicted", ["error", median]] : [title];
  });
  const cells = (row) =>
    FIGURES.flatMap(([name]) => {
      const [seen, said] = [row.measured?.[name], row.predicted?.[name]];
      if (!both) return [middle(seen ?? said)];
      return [middle(seen), middle(said), name in row.errors ? signed(row.errors[name]) : UNKNOWN];
    });
  const body = found.rows.map((row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", class: "left" }, row.label),
      row.refused
        ? h("td", { class: "left refused", colspan: heads.length }, row.refused)
        : cells(row).map((text) => h("td", {}, text)),
    ),
  );
  return h(
    "table",
    {},
    h("caption", { class: "hidden" }, "Predicted against measured"),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col", class: "left" }, "Techniques"),
        heads.map((head) => h("th", { scope: "col" }, head)),
      ),
    ),
    h("tbody", {}, body),
  );
}

function picture({ title, caption, alt }) {
  return h("figure", {}, h("h3", {}, title), h("img", { alt }), h("figcaption", { class: "soft" }, caption));
}

/** Give an image its drawing in the colours of the theme that is shown: an image cannot see the page's own. */
function colour([image, svg]) {
  const style = `<style>${palette}:root{color:var(--ink)}text{font-family:system-ui,sans-serif!important}</style>`;
  const text = svg.replace("<svg", `<svg data-theme="${shownTheme()}"`).replace(">", `>${style}`);
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
}
