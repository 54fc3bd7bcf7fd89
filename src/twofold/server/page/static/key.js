// The API key: asked for when the server wants one, kept for this tab.

import { $, h } from "./dom.js";

const KEPT = "twofold-key";
let asking = null;

/** Headers of a request, with the key where there is one. */
export function headers(more = {}) {
  const key = sessionStorage.getItem(KEPT);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/** Ask for the key, once for all requests that wait. Resolves to whether one was given. */
export function askKey(why) {
  asking ??= show(why).finally(() => (asking = null));
  return asking;
}

function show(why) {
  const dialog = $("key-dialog");
  const input = $("key");
  const refused = sessionStorage.getItem(KEPT) !== null;
  $("key-field").querySelector(".field-error")?.remove();
  if (refused) $("key-field").append(h("p", { class: "field-error", role: "alert" }, why));
  input.value = "";
  return new Promise((resolve) => {
    let given = false;
    $("key-cancel").onclick = () => dialog.close();
    $("key-form").onsubmit = () => {
      given = true;
      sessionStorage.setItem(KEPT, input.value.trim());
    };
    dialog.addEventListener("close", () => resolve(given), { once: true });
    dialog.showModal();
    input.focus();
  });
}
