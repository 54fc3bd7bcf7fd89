// The instruments beside the chat: what the engines do now, and how well that was predicted.

import { getJson } from "./api.js";
import { $, h, perFrame } from "./dom.js";
import { count, digits, percent, seconds, si, signed, UNKNOWN } from "./format.js";
import { LiveChart } from "./live-chart.js";
import { summed } from "./snapshots.js";
import { bar, counters, drafts } from "./meters.js";

const PERIOD = 300; // milliseconds between looks while the chat is shown; workers report four times a second
const SUMS = ["steps", "step_seconds", "predicted_seconds"];

class Instruments {
  model = "";
  before = null; // the sums of the look before

  /** Build what is shown. */
  start() {
    const parts = {
      chart: centrepiece(),
      readouts: readouts(),
      cache: card("Cache blocks"),
      techniques: card("Techniques"),
      memory: card("Memory and traffic"),
    };
    const beside = h("div", { class: "stack" }, parts.cache.element, parts.memory.element);
    $("instruments").replaceChildren(
      parts.chart.element,
      parts.readouts.element,
      beside,
      parts.techniques.element,
    );
    this.parts = parts;
    this.chart = new LiveChart(parts.chart.area);
    this.draw = perFrame(() => this.paint());
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Look again and again while the chat is what is shown. One look at a time. */
  async look() {
    clearTimeout(this.timer);
    if (this.looking || document.hidden || $("view-chat").hidden) return;
    this.looking = true;
    try {
      this.take(await getJson("/api/live"));
      this.timer = setTimeout(() => this.look(), PERIOD);
    } catch (error) {
      $("serving").textContent = error.message;
      if (error.status !== 401) this.timer = setTimeout(() => this.look(), 10 * PERIOD);
    } finally {
      this.looking = false;
    }
  }

  take(live) {
    this.model = live.model;
    this.live = live;
    this.sum = summed(Object.values(live.workers));
    const workers = Object.keys(live.workers).length;
    const several = workers > 1 ? ` · ${workers} replicas` : "";
    $("serving").textContent = live.limits
      ? `${live.model} · ${live.label}${several}`
      : "The model is loading …";
    if (this.sum) this.read();
    this.draw();
  }

  /** A reading of the steps since the look before, where there were any. */
  read() {
    const [now, before] = [this.sum, this.before];
    if (before && now.steps > before.steps) {
      const [steps, measured, predicted] = SUMS.map((name) =>
        now[name] === null ? null : now[name] - before[name],
      );
      this.newest = { measured: measured / steps, predicted: predicted === null ? null : predicted / steps };
      this.chart.push(this.newest.measured, this.newest.predicted);
    }
    this.before = now;
  }

  /** An answer has ended in this page; what it took belongs to the readouts. */
  answered(reply) {
    this.reply = reply;
    this.look();
  }

  paint() {
    const { chart, readouts: shown, cache, techniques, memory } = this.parts;
    const sum = this.sum;
    chart.show(this.newest, this.chart.error(), sum);
    shown.show([
      ["Tokens/s", sum?.tokens_per_s ? digits(sum.tokens_per_s) : UNKNOWN, "of the recent steps"],
      [
        "First token",
        sum?.ttft ? seconds(sum.ttft) : UNKNOWN,
        this.reply?.ttft ? `${seconds(this.reply.ttft)} here, the last` : "mean of the recent requests",
      ],
      [
        "Running",
        String(this.live.running),
        this.live.waiting ? `${this.live.waiting} waiting` : "none waiting",
      ],
      [
        "Prefix hits",
        sum?.prefix_queries ? percent(sum.prefix_hits / sum.prefix_queries) : UNKNOWN,
        sum ? `${count(sum.prefix_hits)} of ${count(sum.prefix_queries)} tokens` : "",
      ],
    ]);
    if (!sum) return;
    cache.body.replaceChildren(
      bar("in use", sum.used_blocks, sum.num_blocks, "blocks", "measured"),
      bar("kept for prefixes", sum.cached_blocks, sum.num_blocks, "blocks", "kept"),
    );
    const drafted = sum.drafted.some((n) => n > 0);
    techniques.element.hidden = !drafted && !Object.keys(sum.techniques).length;
    techniques.body.replaceChildren(
      counters(sum.techniques),
      drafted ? drafts(sum.drafted, sum.accepted) : "",
    );
    memory.body.replaceChildren(facts(sum));
  }
}

export const instruments = new Instruments();

function card(title) {
  const body = h("div");
  return { body, element: h("section", { class: "panel" }, h("h2", {}, title), body) };
}

function centrepiece() {
  const value = (name) => h("span", { class: `now ${name}` }, UNKNOWN);
  const values = { measured: value("measured"), predicted: value("predicted"), error: value("error") };
  const key = (name) => h("div", {}, h("dt", { class: `key ${name}` }, name), h("dd", {}, values[name]));
  const area = h("div");
  const note = h("p", { class: "soft note" });
  const element = h(
    "section",
    { class: "panel centre" },
    h("h2", {}, "Step time: predicted against measured"),
    h("dl", { class: "legend-now" }, Object.keys(values).map(key)),
    area,
    note,
  );
  const show = (newest, { median, many }, sum) => {
    const error = newest?.predicted ? newest.predicted / newest.measured - 1 : null;
    values.measured.textContent = newest ? seconds(newest.measured) : UNKNOWN;
    values.predicted.textContent = newest?.predicted ? seconds(newest.predicted) : UNKNOWN;
    values.error.textContent = error === null ? UNKNOWN : signed(error);
    note.textContent = sum?.prediction_missing
      ? `Nothing is predicted: ${sum.prediction_missing}`
      : `Each point is the mean step of about ${PERIOD / 1000} s; the prediction is for the very batches that ran, with the processor to itself. ` +
        (many ? `Median error over ${many}: ${percent(median)}. The band is ±25 %.` : "");
  };
  return { element, area, show };
}

function readouts() {
  const element = h("section", { class: "readouts", "aria-label": "Readouts" });
  const show = (rows) =>
    element.replaceChildren(
      ...rows.map(([title, value, note]) =>
        h(
          "div",
          { class: "panel readout" },
          h("h3", {}, title),
          h("p", { class: "value" }, value),
          h("p", { class: "soft" }, note),
        ),
      ),
    );
  show(["Tokens/s", "First token", "Running", "Prefix hits"].map((title) => [title, UNKNOWN, ""]));
  return { element, show };
}

function facts(sum) {
  const most = Object.entries(sum.moved)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 3);
  const rows = [
    ["Weights", si(sum.memory.weights, "B")],
    ["Cache", `${si(sum.memory.cache_used, "B")} in use of ${si(sum.memory.cache, "B")}`],
    ["Activations", si(sum.memory.activations, "B")],
    ["Tokens so far", `${count(sum.prompt_tokens)} read, ${count(sum.output_tokens)} written`],
    ["Thrown out for memory", `${sum.preemptions} requests`],
    ...most.map(([kind, bytes]) => [`Moved by ${kind}`, si(bytes, "B")]),
  ];
  return h(
    "dl",
    { class: "facts-list" },
    rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}
