// The form of the explore view: from controls to a fragment of a plan, and errors back to their controls.

import { h, labelled, select } from "./dom.js";
import { digits, middle, si } from "./format.js";
import { TechniqueForm } from "./technique-form.js";

const COUNTS = [1, 2, 4, 8, 16, 32];
const KINDS = { gpu: "GPUs", cpu: "Processors", tpu: "TPUs", pim: "Processing in memory" };

export class ChoiceForm {
  /** changed: called after every change. */
  constructor(form, choices, changed) {
    this.form = form;
    this.choices = choices;
    this.changed = changed;
    this.techniques = new TechniqueForm(choices, changed);
    const served = choices.served;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => this.edited(event));
    this.brief = h("p", { class: "brief", "aria-hidden": "true" });
    form.replaceChildren(
      h("h2", {}, "Choice"),
      group("Deployment", this.deployment(served)),
      group("Load", this.load(), "three"),
      h("fieldset", {}, h("legend", {}, "Techniques"), this.techniques.element),
      this.brief,
    );
    this.techniques.set(served.techniques);
    this.layouts();
  }

  deployment(served) {
    const { models, devices, serving, weights, precisions, cache_formats } = this.choices;
    const device = devices.some((d) => d.name === "this-cpu") ? "this-cpu" : "h100-sxm";
    const named = models.map((m) => [m.name, m.parameters ? `${m.name} · ${big(m.parameters)}` : m.name]);
    const model = models.some((m) => m.name === served.model) ? served.model : "llama-3.1-8b";
    return [
      wide(labelled("Model", select("x-model", named, model), "model")),
      wide(labelled("Device", this.deviceSelect(devices, device), "device")),
      labelled(
        "How many",
        select(
          "x-count",
          COUNTS.map((n) => [String(n), String(n)]),
          "1",
        ),
        "parallel",
      ),
      labelled("Cut as", h("select", { id: "x-layout" }), "layout"),
      labelled(
        "Serving software",
        select(
          "x-serving",
          serving.map((s) => [s.name, s.name]),
          served.engine.serving,
        ),
        "engine.serving",
      ),
      labelled(
        "Weights",
        select(
          "x-weights",
          weights.map((w) => [w, w]),
          "auto",
        ),
        "engine.weights",
      ),
      labelled(
        "Precision",
        select(
          "x-precision",
          precisions.map((p) => [p, p]),
          "auto",
        ),
        "precision",
      ),
      labelled(
        "Cache format",
        select(
          "x-cache",
          cache_formats.map((c) => [c, c]),
          "auto",
        ),
        "engine.cache_format",
      ),
    ];
  }

  deviceSelect(devices, chosen) {
    const kinds = [...new Set(devices.map((d) => d.kind))];
    const option = (d) =>
      h(
        "option",
        { value: d.name, selected: d.name === chosen },
        `${d.name}${d.memory_bytes ? ` · ${si(d.memory_bytes, "B")}` : ""}`,
      );
    return h(
      "select",
      { id: "x-device" },
      kinds.map((kind) =>
        h("optgroup", { label: KINDS[kind] ?? kind }, devices.filter((d) => d.kind === kind).map(option)),
      ),
    );
  }

  load() {
    const number = (id, value, more = {}) =>
      h("input", { id, type: "number", min: "1", step: "1", value, ...more });
    const arrivals = [
      ["concurrency", "Requests at a time"],
      ["rate", "Requests per second"],
    ];
    return [
      wide(labelled("Arrivals", select("x-arrivals", arrivals, "concurrency"), "workload")),
      labelled("At a time", number("x-concurrency", "8"), "workload.concurrency"),
      labelled("Per second", number("x-rate", "2", { min: "0.01", step: "any" }), "workload.rate"),
      labelled("Prompt, tokens", number("x-prompt", "512"), "workload.prompt"),
      labelled("Output, tokens", number("x-output", "128"), "workload.output"),
    ];
  }

  edited(event) {
    if (["x-count", "x-model"].includes(event.target.id)) this.layouts();
    if (event.target.id === "x-arrivals") this.layouts();
    this.changed();
  }

  control(id) {
    return this.form.querySelector(`#x-${id}`);
  }

  value(id) {
    return this.control(id).value;
  }

  /** Every way to cut the model over so many devices; and which field of arrivals counts. */
  layouts() {
    const count = Number(this.value("count"));
    const experts = this.choices.models.find((m) => m.name === this.value("model"))?.experts;
    const before = this.value("layout");
    const found = [];
    for (const tp of divisors(count).reverse()) {
      for (const pp of divisors(count / tp)) {
        const dp = count / tp / pp;
        const degrees = { tp, pp, dp };
        for (const ep of experts ? [...new Set([1, tp, tp * dp])] : [1]) found.push({ ...degrees, ep });
      }
    }
    this.control("layout").replaceChildren(
      ...found.map((l) => {
        const value = JSON.stringify(l);
        const named = Object.entries(l)
          .filter(([, degree]) => degree > 1)
          .map(([name, degree]) => `${name} ${degree}`);
        return h("option", { value, selected: value === before }, named.join(" × ") || "one device");
      }),
    );
    const rate = this.value("arrivals") === "rate";
    this.control("rate").parentElement.hidden = !rate;
    this.control("concurrency").parentElement.hidden = rate;
  }

  /** Choose a device, as the plot does. */
  choose({ device, concurrency }) {
    if (device) this.control("device").value = device;
    if (concurrency) {
      this.control("arrivals").value = "concurrency";
      this.control("concurrency").value = concurrency;
    }
    this.layouts();
    this.changed();
  }

  /** The fragment of a plan that is chosen. */
  fragment() {
    const number = (id) => (this.value(id) === "" ? null : Number(this.value(id)));
    const arrivals = this.value("arrivals");
    return {
      model: this.value("model"),
      device: this.value("device"),
      precision: this.value("precision"),
      parallel: JSON.parse(this.value("layout")),
      techniques: this.techniques.uses(),
      workload: { prompt: number("prompt"), output: number("output"), [arrivals]: number(arrivals) },
      engine: {
        serving: this.value("serving"),
        weights: this.value("weights"),
        cache_format: this.value("cache"),
      },
    };
  }

  /** The figures in a line, for screens where they would stand far below. */
  tell({ figures }) {
    const told = [
      ["TTFT", figures.ttft],
      ["TPOT", figures.tpot],
      ["", figures.tokens_per_s],
    ];
    this.brief.replaceChildren(
      ...told.filter(([, f]) => f).map(([name, f]) => h("span", {}, `${name} ${middle(f)}`)),
    );
  }

  /** Show an error at the field that it names. Returns whether there is one. */
  complain(param, message) {
    this.absolve();
    const fields = [...this.form.querySelectorAll("[data-field]")];
    const named = (field) => param === field.dataset.field || param?.startsWith(`${field.dataset.field}.`);
    const field = fields
      .filter(named)
      .filter((f) => !f.hidden)
      .sort((a, b) => b.dataset.field.length - a.dataset.field.length)[0];
    if (!field) return false;
    const control = field.querySelector("input, select");
    const id = "choice-error";
    control?.setAttribute("aria-invalid", "true");
    control?.setAttribute("aria-describedby", id);
    field.append(h("p", { class: "field-error", id }, message));
    return true;
  }

  absolve() {
    for (const control of this.form.querySelectorAll("[aria-invalid]")) {
      control.removeAttribute("aria-invalid");
      control.removeAttribute("aria-describedby");
    }
    for (const message of this.form.querySelectorAll(".field-error")) message.remove();
  }
}

const group = (title, fields, more = "") =>
  h("fieldset", {}, h("legend", {}, title), h("div", { class: `fields ${more}` }, fields));
const big = (many) => (many >= 1e9 ? `${digits(many / 1e9)} billion` : `${digits(many / 1e6)} million`);

function wide(field) {
  field.classList.add("wide");
  return field;
}

const divisors = (n) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
