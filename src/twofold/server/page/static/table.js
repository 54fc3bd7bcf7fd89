// A table whose columns sort.

import { h } from "./dom.js";

/**
 * columns: {title, cell(row) -> text or node, key(row) -> what is sorted by, left, head: the row's header,
 *   wide: left out where the screen is narrow}.
 * Sorts by `by` first, largest or last first where `down`. Missing keys come last either way.
 */
export class SortedTable {
  constructor(parent, caption, columns, by, down, most = 200) {
    Object.assign(this, { parent, columns, by, down, most, limit: most, rows: [] });
    this.heads = columns.map((column, i) => {
      const sort = h("button", { type: "button", class: "sort", onclick: () => this.sort(i) }, column.title);
      return h("th", { scope: "col", class: classes(column) }, column.key ? sort : column.title);
    });
    this.body = h("tbody");
    this.more = h("button", { type: "button", class: "more", onclick: () => this.showAll() });
    this.parent.replaceChildren(
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, caption),
        h("thead", {}, h("tr", {}, this.heads)),
        this.body,
      ),
      this.more,
    );
  }

  show(rows) {
    this.rows = rows;
    this.limit = this.most;
    this.draw();
  }

  sort(i) {
    this.down = this.by === i ? !this.down : Boolean(this.columns[i].down);
    this.by = i;
    this.draw();
  }

  showAll() {
    this.limit = Infinity;
    this.draw();
    this.parent.focus();
  }

  draw() {
    this.heads.forEach((head, i) => {
      if (i === this.by) head.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const key = this.columns[this.by].key;
    const sorted = this.rows
      .map((row) => [key(row), row])
      .sort(([a], [b]) => order(a, b, this.down))
      .map(([, row]) => row);
    this.body.replaceChildren(...sorted.slice(0, this.limit).map((row) => this.line(row)));
    this.more.hidden = sorted.length <= this.limit;
    this.more.textContent = `Show all ${sorted.length}`;
  }

  line(row) {
    return h(
      "tr",
      {},
      this.columns.map((column) => {
        const where = { class: classes(column) };
        return column.head
          ? h("th", { scope: "row", ...where }, column.cell(row))
          : h("td", where, column.cell(row));
      }),
    );
  }
}

const classes = (column) =>
  [column.left && "left", column.wide && "wide-only"].filter(Boolean).join(" ") || null;

function order(a, b, down) {
  const [none, other] = [a === null || a === undefined, b === null || b === undefined];
  if (none || other) return Number(none) - Number(other);
  const compared = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return down ? -compared : compared;
}
