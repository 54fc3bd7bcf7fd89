// Bars and counters.

import { h, s } from "./dom.js";
import { count, percent } from "./format.js";

/** A share of a whole as a bar, with both in words. */
export function bar(name, part, whole, unit, kind) {
  const share = whole ? part / whole : 0;
  return h(
    "div",
    { class: "level" },
    h(
      "p",
      {},
      h("span", {}, name),
      h("span", { class: "soft" }, `${count(part)} of ${count(whole)} ${unit} (${percent(share)})`),
    ),
    h(
      "div",
      {
        role: "meter",
        "aria-label": name,
        "aria-valuemin": 0,
        "aria-valuemax": whole,
        "aria-valuenow": part,
      },
      s(
        "svg",
        { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" },
        s("rect", { class: "room", x: 0, y: 0, width: 1000, height: 10 }),
        s("rect", { class: kind, x: 0, y: 0, width: part ? Math.max(2, share * 1000) : 0, height: 10 }),
      ),
    ),
  );
}

/** The counters of each technique. */
export function counters(techniques) {
  return h(
    "div",
    { class: "counters" },
    Object.entries(techniques).map(([name, found]) =>
      h(
        "div",
        {},
        h("h3", {}, name),
        h(
          "dl",
          { class: "facts-list" },
          Object.entries(found).flatMap(([counter, value]) => [
            h("dt", {}, counter.replaceAll("_", " ")),
            h("dd", {}, count(value)),
          ]),
        ),
      ),
    ),
  );
}

/** Guesses verified and right, by their place in the draft. */
export function drafts(drafted, accepted) {
  const most = Math.max(...drafted);
  const places = drafted.map((many, i) => [many, accepted[i] ?? 0]).filter(([many]) => many > 0);
  const [width, height, step] = [24 * Math.max(places.length, 6), 64, 24];
  const told = places.map(([many, right], i) => `${i + 1}: ${right} of ${many}`).join("; ");
  const right = places.reduce((sum, [, n]) => sum + n, 0);
  const all = places.reduce((sum, [n]) => sum + n, 0);
  const rect = (value, i, kind) =>
    s("rect", {
      class: kind,
      x: i * step + 3,
      width: step - 6,
      y: height - (value / most) * height,
      height: (value / most) * height,
    });
  return h(
    "div",
    { class: "drafts" },
    h("h3", {}, "Drafted and accepted, by place in the draft"),
    s(
      "svg",
      {
        viewBox: `0 0 ${width} ${height + 16}`,
        role: "img",
        preserveAspectRatio: "xMinYMid",
        "aria-label": `Accepted of drafted by place. ${told}`,
      },
      places.map(([many, good], i) => [
        rect(many, i, "room"),
        rect(good, i, "measured"),
        s("text", { x: i * step + step / 2, y: height + 13, "text-anchor": "middle" }, i + 1),
      ]),
    ),
    h(
      "p",
      { class: "soft" },
      `${count(right)} of ${count(all)} guesses were right (${percent(right / all)}).`,
    ),
  );
}
