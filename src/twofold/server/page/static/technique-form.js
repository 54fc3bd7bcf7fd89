// Techniques with their parameters: which are on, with what, and which cannot be beside which.

import { h } from "./dom.js";

export class TechniqueForm {
  constructor(choices, changed) {
    this.refused = choices.refused;
    this.changed = changed;
    this.rows = choices.techniques.map((technique) => this.row(technique));
    this.element = h(
      "div",
      { class: "techniques", "data-field": "techniques" },
      this.rows.map((row) => row.element),
    );
  }

  row(technique) {
    const id = `t-${technique.name}`;
    const box = h("input", {
      type: "checkbox",
      id,
      "aria-describedby": `${id}-why`,
      onchange: () => this.update(),
    });
    const fields = technique.fields.map((field) => parameter(technique, field));
    const why = h("p", { class: "soft why", id: `${id}-why` }, technique.summary);
    const params = h(
      "div",
      { class: "params fields", hidden: true },
      fields.map((field) => field.element),
    );
    const kind = h("span", { class: "badge" }, technique.lossless ? "lossless" : "lossy");
    const element = h(
      "div",
      { class: "technique", "data-field": `techniques.${technique.name}` },
      h("label", { class: "check", for: id }, box, h("span", {}, technique.name), kind),
      why,
      params,
    );
    return { technique, box, fields, why, params, element };
  }

  /** Switch on the techniques that a plan has. */
  set(uses) {
    for (const row of this.rows) {
      const use = uses.find((u) => u.name === row.technique.name);
      row.box.checked = Boolean(use);
      for (const field of row.fields) field.set(use?.params[field.name]);
    }
    this.update();
  }

  /** Show the parameters of what is on, and refuse what cannot be beside it. */
  update() {
    const on = new Set(this.rows.filter((row) => row.box.checked).map((row) => row.technique.name));
    for (const { technique, box, why, params, element } of this.rows) {
      const pair = this.refused.find(
        ({ first, second }) =>
          (first === technique.name && on.has(second)) || (second === technique.name && on.has(first)),
      );
      const out = Boolean(pair) && !box.checked;
      box.disabled = out;
      element.classList.toggle("refused", out);
      why.textContent = out ? pair.reason : technique.summary;
      params.hidden = !box.checked || !params.childElementCount;
    }
  }

  /** The techniques that are on, each with the parameters that were changed. */
  uses() {
    return this.rows
      .filter((row) => row.box.checked)
      .map(({ technique, fields }) => ({
        name: technique.name,
        params: Object.fromEntries(
          fields.filter((field) => field.changed()).map((field) => [field.name, field.value()]),
        ),
      }));
  }
}

/** The control of one parameter; empty means its default. */
function parameter(technique, { name, type, whole, default: initial }) {
  const id = `t-${technique.name}-${name}`;
  const shown = Array.isArray(initial) ? initial.join(";") : initial;
  const label = h("label", { for: id }, name);
  const control =
    type === "switch"
      ? h("input", { id, type: "checkbox", checked: initial })
      : h("input", {
          id,
          type: type === "number" ? "number" : "text",
          step: whole ? "1" : "any",
          placeholder: shown ?? "none",
        });
  return {
    name,
    element: h(
      "div",
      {
        class: type === "switch" ? "field switch" : "field",
        "data-field": `techniques.${technique.name}.${name}`,
      },
      label,
      control,
    ),
    changed: () => (type === "switch" ? control.checked !== initial : control.value.trim() !== ""),
    value: () =>
      type === "switch" ? control.checked : type === "number" ? Number(control.value) : control.value.trim(),
    set(value) {
      if (type === "switch") control.checked = value ?? initial;
      else
        control.value =
          value === undefined || value === null ? "" : Array.isArray(value) ? value.join(";") : value;
    },
  };
}
