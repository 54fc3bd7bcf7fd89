// Elements without HTML: whatever a text says, it stays text.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes (on… are listeners, null and false are left out), then children; text becomes text nodes. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const $ = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** `call`, at most once per frame however often it is asked for. */
export function perFrame(call) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      call();
    });
  };
}

/** A labelled control in a `.field`; `field` is the path that errors name. */
export function labelled(label, control, field, note = null) {
  return h(
    "div",
    { class: "field", "data-field": field },
    h("label", { for: control.id }, label),
    control,
    note,
  );
}

/** A select with `options` [value, text]. */
export function select(id, options, chosen, onchange) {
  const made = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("select", { id, onchange }, made);
}

/** Buttons of which one is pressed; `choose(value)` hears of it. */
export function segments(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) =>
    h(
      "button",
      { type: "button", "aria-pressed": String(value === chosen), onclick: () => press(value) },
      text,
    ),
  );
  function press(value) {
    options.forEach(([other], i) => buttons[i].setAttribute("aria-pressed", String(other === value)));
    choose(value);
  }
  return h("div", { class: "segments", role: "group", "aria-label": label }, buttons);
}
