// Throughput against time per token or energy: over the devices, or over how many requests run at a time.

import { h, s, segments } from "./dom.js";
import { digits, seconds, short, si } from "./format.js";
import { logEnds, logScale } from "./scales.js";

const HEIGHT = 400;
const MARGIN = { left: 62, right: 20, top: 16, bottom: 44 };
const AXES = {
  tpot: { title: "time per output token", show: seconds },
  joules_per_token: { title: "energy per generated token", show: (v) => si(v, "J") },
};

export class ParetoPlot {
  over = "concurrency";
  against = "tpot";
  points = [];
  others = [];

  /** choose(point): a point was picked; again(): other points are wanted. */
  constructor(parent, { choose, again }) {
    this.choose = choose;
    this.area = h("div", { class: "plot" });
    this.note = h("p", { class: "soft", "aria-live": "polite" });
    this.table = h("details", {}, h("summary", {}, "As a table"));
    parent.replaceChildren(
      h(
        "div",
        { class: "toolbar" },
        h("h2", {}, "Throughput"),
        segments(
          "Over",
          [
            ["concurrency", "over requests at a time"],
            ["devices", "over devices"],
          ],
          this.over,
          (over) => {
            this.over = over;
            again();
          },
        ),
        segments(
          "Against",
          [
            ["tpot", "against TPOT"],
            ["joules_per_token", "against energy"],
          ],
          this.against,
          (against) => {
            this.against = against;
            this.draw();
          },
        ),
      ),
      this.area,
      this.note,
      this.table,
    );
    new ResizeObserver(() => this.draw()).observe(this.area);
  }

  /** points: of the present choice; others: of the pinned one. */
  show(points, fragment, others, pinned) {
    Object.assign(this, { points, fragment, others, pinned });
    this.draw();
  }

  draw() {
    const width = this.area.clientWidth;
    const place = (point) => ({ point, x: point[this.against], y: point.tokens_per_s });
    const usable = (points) =>
      points.filter((p) => !p.refused && p.tokens_per_s > 0 && p[this.against] > 0).map(place);
    const [mine, other] = [usable(this.points), usable(this.others)];
    if (!width || !this.fragment) return;
    if (!mine.length) {
      this.area.replaceChildren(h("p", { class: "soft" }, this.points.find((p) => p.refused)?.refused ?? ""));
      return;
    }
    const all = [...mine, ...other];
    const x = logScale(...logEnds(all.map((p) => p.x)), MARGIN.left, width - MARGIN.right);
    const y = logScale(...logEnds(all.map((p) => p.y)), HEIGHT - MARGIN.bottom, MARGIN.top);
    const front = frontOf(mine);
    this.area.replaceChildren(
      s(
        "svg",
        {
          width,
          height: HEIGHT,
          viewBox: `0 0 ${width} ${HEIGHT}`,
          role: "img",
          "aria-label": this.told(front),
        },
        axes(x, y, width, AXES[this.against]),
        this.over === "devices" ? steps(front, x, y) : path(mine, x, y, "front"),
        other.length && this.over === "concurrency" ? path(other, x, y, "front other") : null,
        other.map((p) =>
          this.over === "devices" && p.point.device !== this.pinned.device
            ? null
            : this.dot(p, x, y, "dot other"),
        ),
        mine.map((p) => this.dot(p, x, y, `dot${front.includes(p) ? " best" : ""}`)),
        this.present(mine, x, y),
        this.labels([...front, ...mine.filter((p) => !front.includes(p))], x, y, width),
      ),
    );
    this.note.textContent = this.explain();
    this.table.replaceChildren(this.table.firstChild, this.rows());
  }

  isPresent({ point }) {
    const { device, workload } = this.fragment;
    return this.over === "devices"
      ? point.device === device
      : workload.concurrency
        ? point.concurrency === workload.concurrency
        : false;
  }

  present(points, x, y) {
    return points
      .filter((p) => this.isPresent(p))
      .map((p) => s("circle", { class: "present", cx: x.at(p.x), cy: y.at(p.y), r: 10 }));
  }

  dot(p, x, y, name) {
    const onclick = () => this.pick(p.point);
    return s(
      "circle",
      { class: name, cx: x.at(p.x), cy: y.at(p.y), r: 5.5, onclick },
      s("title", {}, `${this.name(p.point)}: ${this.figures(p)}`),
    );
  }

  pick({ device, concurrency }) {
    this.choose(this.over === "devices" ? { device } : { concurrency });
  }

  name(point) {
    return this.over === "devices" ? point.device : `${point.concurrency} at a time`;
  }

  figures({ x, y }) {
    return `${digits(y)} tokens/s at ${AXES[this.against].show(x)}`;
  }

  /** Names beside points, where there is room; the present choice always has its own. */
  labels(points, x, y, width) {
    const taken = points.map((p) => [x.at(p.x) - 5, y.at(p.y) - 5, 10, 10]);
    const present = points.filter((p) => this.isPresent(p));
    return [...present, ...points.filter((p) => !present.includes(p))].map((p) => {
      const text = this.over === "devices" ? p.point.device : String(p.point.concurrency);
      const size = [text.length * 6.6 + 4, 14];
      const [px, py] = [x.at(p.x), y.at(p.y)];
      const offsets = [
        [9, 4],
        [-9 - size[0], -18],
        [12, -7],
        [-12 - size[0], -7],
        [-size[0] / 2, -26],
        [-size[0] / 2, 12],
      ];
      const free = offsets
        .map(([dx, dy]) => [px + dx, py + dy, ...size])
        .find((box) => inside(box, width) && !taken.some((other) => overlap(box, other)));
      if (!free) return null;
      taken.push(free);
      return s(
        "text",
        { class: present.includes(p) ? "chosen" : null, x: free[0] + 2, y: free[1] + 11 },
        text,
      );
    });
  }

  explain() {
    const refused = this.points.filter((p) => p.refused);
    const what =
      this.over === "devices"
        ? "Each point is this plan on another device; no point is better than one on the line in both."
        : "Each point is this plan with that many requests at a time.";
    const left = refused.length
      ? ` Left out: ${refused.map((p) => this.name(p)).join(", ")} (the table says why).`
      : "";
    const how = "Quick estimates, close to the prediction above; the ring is the present choice.";
    return `${what} ${how} Click a point, or its name in the table, to choose it.${left}`;
  }

  told(front) {
    return `Throughput against ${AXES[this.against].title}. ${front.map((p) => `${this.name(p.point)}: ${this.figures(p)}`).join("; ")}`;
  }

  rows() {
    const heads = [
      this.over === "devices" ? "Device" : "At a time",
      "Throughput",
      "TTFT",
      "TPOT",
      "Energy",
      "Memory",
    ];
    const cells = (p) => [
      `${digits(p.tokens_per_s)} token/s`,
      seconds(p.ttft),
      seconds(p.tpot),
      si(p.joules_per_token, "J/token"),
      si(p.memory_bytes, "B"),
    ];
    const pick = (p) => {
      const name = this.over === "devices" ? p.device : String(p.concurrency);
      return h("button", { type: "button", class: "link", onclick: () => this.pick(p) }, name);
    };
    return h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Estimates" },
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, "Estimates"),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map((head, i) => h("th", { scope: "col", class: i ? null : "left" }, head)),
          ),
        ),
        h(
          "tbody",
          {},
          this.points.map((p) =>
            h(
              "tr",
              {},
              h("th", { scope: "row", class: "left" }, pick(p)),
              p.refused
                ? h("td", { class: "left refused", colspan: 5 }, p.refused)
                : cells(p).map((text) => h("td", {}, text)),
            ),
          ),
        ),
      ),
    );
  }
}

/** Points that no other beats in both: less of x and more of y. */
function frontOf(points) {
  return points
    .filter((p) => !points.some((q) => q !== p && q.x <= p.x && q.y >= p.y && (q.x < p.x || q.y > p.y)))
    .sort((a, b) => a.x - b.x);
}

function axes(x, y, width, axis) {
  const bottom = HEIGHT - MARGIN.bottom;
  return s(
    "g",
    { class: "grid" },
    x.ticks.map((tick) => [
      s("line", { x1: x.at(tick), x2: x.at(tick), y1: MARGIN.top, y2: bottom }),
      s("text", { x: x.at(tick), y: bottom + 17, "text-anchor": "middle" }, short(axis.show(tick))),
    ]),
    y.ticks.map((tick) => [
      s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y.at(tick), y2: y.at(tick) }),
      s("text", { x: MARGIN.left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, tick.toLocaleString("en")),
    ]),
    s(
      "text",
      { x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" },
      axis.title,
    ),
    s(
      "text",
      { transform: `translate(13 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      "tokens/s",
    ),
  );
}

const path = (points, x, y, name) =>
  s("path", { class: name, d: points.map((p, i) => `${i ? "L" : "M"}${x.at(p.x)} ${y.at(p.y)}`).join("") });

/** The front as a staircase: what lies below and right of it is beaten. */
function steps(front, x, y) {
  const d = front.map((p, i) => (i ? `H${x.at(p.x)}V${y.at(p.y)}` : `M${x.at(p.x)} ${y.at(p.y)}`)).join("");
  return s("path", { class: "front", d });
}

const inside = ([left, top, wide, high], width) =>
  left >= MARGIN.left && left + wide <= width - 2 && top >= 2 && top + high <= HEIGHT - MARGIN.bottom;
const overlap = (a, b) =>
  a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3];
