// Light, dark, or as the system says.

import { $ } from "./dom.js";

const KEPT = "twofold-theme";
const NAMES = { auto: "Auto", light: "Light", dark: "Dark" };
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const dark = matchMedia("(prefers-color-scheme: dark)");

/** Which of the two is shown. */
export function shownTheme() {
  return document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
}

/** Wire the button. `changed` events reach whoever draws outside of CSS. */
export const changed = new EventTarget();

export function startTheme() {
  const button = $("theme");
  const tell = () => changed.dispatchEvent(new Event("theme"));
  function show(theme) {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = NAMES[theme];
    button.setAttribute("aria-label", `Theme: ${theme}`);
    tell();
  }
  button.addEventListener("click", () => {
    const theme = NEXT[localStorage.getItem(KEPT) ?? "auto"];
    localStorage.setItem(KEPT, theme);
    show(theme);
  });
  dark.addEventListener("change", tell);
  show(localStorage.getItem(KEPT) ?? "auto");
}
