// A small part of Markdown, as elements: paragraphs, headings, lists, quotes, code, emphasis, links. Raw HTML stays text.

import { h } from "./dom.js";

const FENCE = /^ {0,3}(```|~~~)\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*)/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)/;
const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|\*([^\s*](?:.*?[^\s*])?)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/;

/** The blocks of `text` as elements. */
export function markdown(text) {
  const lines = text.split("\n");
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) at = code(lines, at, blocks);
    else if (HEADING.test(line)) at = heading(lines, at, blocks);
    else if (ITEM.test(line)) at = list(lines, at, blocks);
    else if (line.startsWith(">")) at = quote(lines, at, blocks);
    else at = paragraph(lines, at, blocks);
  }
  return blocks;
}

/** Renders a text that grows: blocks that are complete stay as they are, only the last ones are made anew. */
export class Growing {
  constructor(element) {
    this.element = element;
    this.done = 0; // characters whose blocks are final
    this.open = []; // elements of what follows
  }

  show(text) {
    const cut = lastBreak(text);
    if (cut > this.done) {
      this.drop();
      this.element.append(...markdown(text.slice(this.done, cut)));
      this.done = cut;
    } else this.drop();
    this.open = markdown(text.slice(this.done));
    this.element.append(...this.open);
  }

  drop() {
    for (const element of this.open) element.remove();
    this.open = [];
  }
}

/** Where the last block that may still grow begins: after an empty line outside of code and lists, else 0. */
function lastBreak(text) {
  let fenced = false;
  let at = 0;
  let found = 0;
  let before = "";
  for (const line of text.split("\n")) {
    const starts = line.trim() && !before.trim() && at > 0 && !/^\s/.test(line) && !ITEM.test(line);
    if (starts && !fenced) found = at;
    if (FENCE.test(line)) fenced = !fenced;
    at += line.length + 1;
    before = line;
  }
  return found;
}

function code(lines, at, blocks) {
  const [, mark, language] = FENCE.exec(lines[at]);
  const body = [];
  for (at += 1; at < lines.length && !lines[at].trimStart().startsWith(mark); at += 1) body.push(lines[at]);
  blocks.push(
    h(
      "pre",
      { tabindex: "0", "aria-label": language ? `Code in ${language}` : "Code" },
      h("code", {}, body.join("\n")),
    ),
  );
  return at + 1;
}

function heading(lines, at, blocks) {
  const [, marks, text] = HEADING.exec(lines[at]);
  blocks.push(h(`h${Math.min(6, marks.length + 2)}`, {}, inline(text)));
  return at + 1;
}

/** A list with its nested ones, by indentation. */
function list(lines, at, blocks) {
  const [, indent, number] = ITEM.exec(lines[at]);
  const made = number === undefined ? h("ul") : h("ol", { start: number });
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (found && found[1].length > indent.length + 1 && made.lastChild) {
      const nested = [];
      at = list(lines, at, nested);
      made.lastChild.append(...nested);
    } else if (
      found &&
      found[1].length >= indent.length &&
      (found[2] === undefined) === (number === undefined)
    ) {
      made.append(h("li", {}, inline(found[3])));
      at += 1;
    } else if (!found && /^\s+\S/.test(lines[at]) && !FENCE.test(lines[at])) {
      made.lastChild.append(" ", ...inline(lines[at].trim()));
      at += 1;
    } else if (
      !lines[at].trim() &&
      ITEM.test(lines[at + 1] ?? "") &&
      ITEM.exec(lines[at + 1])[1].length >= indent.length
    )
      at += 1;
    else break;
  }
  blocks.push(made);
  return at;
}

function quote(lines, at, blocks) {
  const body = [];
  for (; at < lines.length && lines[at].startsWith(">"); at += 1) body.push(lines[at].replace(/^> ?/, ""));
  blocks.push(h("blockquote", {}, h("p", {}, inline(body.join("\n")))));
  return at;
}

function paragraph(lines, at, blocks) {
  const body = [lines[at]];
  const ends = (line) =>
    !line.trim() || [FENCE, HEADING, ITEM].some((start) => start.test(line)) || line.startsWith(">");
  for (at += 1; at < lines.length && !ends(lines[at]); at += 1) body.push(lines[at]);
  blocks.push(h("p", {}, inline(body.join("\n"))));
  return at;
}

/** Text with emphasis, code and links, as nodes. */
function inline(text) {
  const nodes = [];
  for (let found; (found = INLINE.exec(text)); text = text.slice(found.index + found[0].length)) {
    nodes.push(text.slice(0, found.index), marked(found));
  }
  return [...nodes, text].filter((node) => node !== "");
}

function marked([, ticks, ticked, strong, emphasised, label, address]) {
  if (ticks) return h("code", {}, ticked.trim());
  if (strong) return h("strong", {}, inline(strong));
  if (emphasised) return h("em", {}, inline(emphasised));
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, label);
}
