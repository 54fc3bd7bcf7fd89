"""The page in a real browser: what a user sees and does, with a mouse and with keys alone, wide and narrow,
light and dark."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.server.fakes import FakeService
from tests.server.page.conftest import KEY, Served
from tests.waiting import PATIENCE

VIEWS = ("chat", "results", "explore")
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const lightness = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const found = channels(getComputedStyle(element).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found.slice(0, 3);
    }
    throw new Error("the page has no background");
  };
  const poor = [];
  let seen = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode()); ) {
    const element = node.parentElement;
    const unread = ":disabled, .hidden, .skip, option, noscript";
    if (!node.data.trim() || !element.checkVisibility() || element.closest(unread)) continue;
    const style = getComputedStyle(element);
    const front = channels(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [lightness(front), lightness(behind(element))].sort((m, n) => n - m);
    seen += 1;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([node.data.trim().slice(0, 40), front.join(), ratio.toFixed(2)]);
  }
  return { seen, poor };
}"""


class Page:
    """A page of a browser that has heard of no error so far."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(1e3 * PATIENCE)
        self.url = url
        self.troubles: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", self._heard)
        self.page.route("**/v1/chat/completions", self._lengthen)

    @staticmethod
    def _lengthen(route: Any) -> None:
        """A random model would end its answers anywhere."""
        body = {**route.request.post_data_json, "ignore_eos": True, "seed": 1}
        route.continue_(post_data=json.dumps(body))

    def _heard(self, message: Any) -> None:
        # A refused request is reported by the browser itself; what the page makes of it is tested.
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            self.troubles.append(message.text)

    def open(self, view: str) -> Any:
        """Show a view and wait until it has its data."""
        self.page.goto(f"{self.url}/#{view}")
        ready = {
            "chat": "#instruments [role=meter]",  # painted a frame after the server's answer has come
            "results": "#results-table tbody tr",
            "explore": "#figures .card",
        }
        self.page.wait_for_selector(ready[view], state="attached")
        return self.page


@pytest.fixture
def make(chromium: Any) -> Iterator[Callable[..., Page]]:
    """make(server, width=…, scheme=…) opens a page; at the end none may have heard of an error."""
    opened: list[Page] = []
    contexts = []

    def page(server: Served, *, width: int = 1280, scheme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        opened.append(Page(context, server.url))
        return opened[-1]

    yield page
    for context in contexts:
        context.close()
    assert [trouble for page in opened for trouble in page.troubles] == []


def until(page: Any, what: str | Callable[[], object], arg: Any = None) -> None:
    """Wait until a JavaScript expression (or a function of `arg`) is true, or what a call returns.
    Playwright's own way of waiting would need eval, which the page's policy forbids."""
    end = time.monotonic() + PATIENCE
    while not (page.evaluate(what, arg) if isinstance(what, str) else what()):
        assert time.monotonic() < end, f"it never came true: {what}"
        page.wait_for_timeout(30)


def say(page: Any, text: str, *, tokens: int = 24) -> None:
    """Send a message; answers have at most so many tokens."""
    page.locator("#settings").evaluate("(settings) => { settings.open = true; }")
    page.fill("#max-tokens", str(tokens))
    page.fill("#message", text)
    page.press("#message", "Enter")


def answered(page: Any, times: int = 1) -> Any:
    """The last answer, once that many have ended."""
    until(
        page, "(n) => document.querySelectorAll('.turn.assistant .facts:not(:empty)').length === n", arg=times
    )
    return page.locator(".turn.assistant").last


@pytest.fixture
def held(open_server: Served) -> Iterator[FakeService]:
    """The service with an engine that waits to be told, so that answers are seen while they are made."""
    open_server.service.hold()
    yield open_server.service
    open_server.service.go()


SAID = "document.querySelector('.turn.assistant .said')?.textContent.length ?? 0"
READINGS = "document.querySelectorAll('.live-chart line.error').length"


def test_an_answer_streams_and_the_instruments_move(
    make: Callable[..., Page], open_server: Served, held: FakeService
) -> None:
    page = make(open_server).open("chat")
    before = page.request.get(f"{open_server.url}/api/live").json()["workers"]["worker-0"]["steps"]
    asked = len(held.jobs)
    say(page, "Hello there", tokens=240)
    until(page, lambda: len(held.jobs) > asked)
    for _ in range(4):  # what a few steps yield is there before others are done, and is a reading
        length, readings = page.evaluate(SAID), page.evaluate(READINGS)
        held.allow(6)
        until(page, f"({SAID}) > {length} && {READINGS} > {readings}")
    assert page.locator("#stop").is_visible()
    held.go()
    reply = answered(page)
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first after", reply.inner_text())
    page.wait_for_selector(".live-chart path.measured")
    page.wait_for_selector(".live-chart path.predicted")
    assert page.locator(".live-chart line.error").count() >= 4
    for name in ("measured", "predicted", "error"):
        assert re.search(r"\d", page.locator(f".now.{name}").inner_text()), name
    assert "Median error" in page.locator(".centre .note").inner_text()
    assert re.match(r"[\d.]+", page.locator(".readout .value").first.inner_text())
    until(page, "document.querySelector('.counters').innerText.includes('lookups')")
    kept = "[role=meter][aria-label='kept for prefixes']"
    until(page, f"document.querySelector(\"{kept}\").getAttribute('aria-valuenow') !== '0'")
    after = page.request.get(f"{open_server.url}/api/live").json()["workers"]["worker-0"]["steps"]
    assert after - before > 10


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stopping_ends_the_request_and_keeps_the_text(
    make: Callable[..., Page], open_server: Served, held: FakeService, how: str
) -> None:
    page = make(open_server).open("chat")
    left, asked = len(held.left), len(held.jobs)
    say(page, "Go on and on", tokens=1500)
    until(page, "document.querySelector('#stop').hidden === false")
    until(page, lambda: len(held.jobs) > asked)
    held.allow(12)
    until(page, f"({SAID}) > 5")
    if how == "button":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    reply = answered(page)
    assert "Stopped." in reply.inner_text()
    assert reply.locator(".said").inner_text()
    until(page, lambda: len(held.left) == left + 1)
    held.go()
    until(
        page,
        "async () => { const live = await (await fetch('/api/live')).json();"
        " return live.workers['worker-0'].running === 0 && live.workers['worker-0'].used_blocks === 0; }",
    )
    say(page, "Again", tokens=4)
    answered(page, 2)


def test_regenerate_asks_the_same_again_and_new_chat_forgets(
    make: Callable[..., Page], open_server: Served
) -> None:
    page = make(open_server).open("chat")
    bodies: list[Any] = []
    page.on("request", lambda r: bodies.append(r.post_data_json) if "/v1/" in r.url else None)
    page.locator("#settings").evaluate("(settings) => { settings.open = true; }")
    page.fill("#system", "Be brief.")
    page.fill("#temperature", "0")
    say(page, "One\nTwo", tokens=6)
    first = answered(page).locator(".said").inner_text()
    page.get_by_role("button", name="Regenerate").click()
    until(page, "document.querySelector('#send').hidden === false")
    assert answered(page).locator(".said").inner_text() == first
    assert bodies[0] == bodies[1]
    assert bodies[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (bodies[0]["temperature"], bodies[0]["max_completion_tokens"]) == (0, 6)
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0


def test_an_answer_is_whole_when_its_facts_appear(make: Callable[..., Page], open_server: Served) -> None:
    opened = make(open_server)
    opened.page.add_init_script("requestAnimationFrame = (draw) => setTimeout(draw, 2000);")
    page = opened.open("chat")
    say(page, "Hello there", tokens=12)
    text = answered(page).locator(".said").inner_text()
    assert text
    page.wait_for_timeout(2500)  # whatever a frame had still to draw is drawn
    assert answered(page).locator(".said").inner_text() == text


def test_a_setting_that_the_server_refuses_is_marked(make: Callable[..., Page], open_server: Served) -> None:
    page = make(open_server).open("chat")
    page.locator("#settings").evaluate("(settings) => { settings.open = true; }")
    page.fill("#temperature", "9")
    say(page, "Hello")
    page.wait_for_selector("#temperature[aria-invalid=true]")
    described = page.get_attribute("#temperature", "aria-describedby")
    assert "temperature" in page.locator(f"#{described}").inner_text()
    assert page.locator(".turn.assistant [role=alert]").inner_text()


def scripted(text: str) -> str:
    """A streamed answer of `text`, in pieces that break words and marks."""
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    events = [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    events += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def test_markdown_becomes_elements_and_html_stays_text(
    make: Callable[..., Page], open_server: Served
) -> None:
    text = (
        "# Title\n\nA *b* **c** `d <b>` [e](https://example.org/x) [f](javascript:alert(1))\n\n"
        "1. one\n2. two\n   - inner\n\n```python\nx = '<i>'\n\ny = 1\n```\n\n> quoted\n\n"
        "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script>"
    )
    page = make(open_server).open("chat")
    stream = {"status": 200, "content_type": "text/event-stream", "body": scripted(text)}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**stream))
    say(page, "<b>bold?</b>")
    said = answered(page).locator(".said")
    assert page.locator(".turn.user .said").inner_text() == "<b>bold?</b>"
    assert said.locator("h3").inner_text() == "Title"
    assert said.locator("ol > li > ul > li").inner_text() == "inner"
    assert said.locator("pre code").text_content() == "x = '<i>'\n\ny = 1"
    assert said.locator("blockquote").inner_text() == "quoted"
    assert said.locator("p code").inner_text() == "d <b>"
    assert [a.get_attribute("href") for a in said.locator("a").all()] == ["https://example.org/x"]
    assert "<script>" in said.inner_text()
    assert said.locator("img, script, b, i").count() == 0
    assert page.title() == "Chat · Twofold"


def test_an_error_in_mid_stream_is_said(make: Callable[..., Page], open_server: Served) -> None:
    page = make(open_server).open("chat")
    begun = 'data: {"choices": [{"delta": {"content": "So far"}}]}\n\n'
    broken = {"error": {"message": "the worker died", "type": "server_error", "param": None, "code": None}}
    bodies = [begun + f"data: {json.dumps(broken)}\n\n", begun]
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=bodies.pop(0)),
    )
    said = "[...document.querySelectorAll('.turn.assistant [role=alert]')].filter((a) => a.innerText).length"
    for number, expected in enumerate(("the worker died", "the answer broke off"), 1):
        say(page, "Hello")
        alert = page.locator(".turn.assistant [role=alert]").last
        until(page, f"{said} === {number}")
        assert expected in alert.inner_text()
        assert "So far" in page.locator(".turn.assistant").last.inner_text()


def test_results_sort_filter_and_compare(make: Callable[..., Page], open_server: Served) -> None:
    page = make(open_server).open("results")
    rows = page.locator("#results-table tbody tr")
    all_rows = rows.count()
    page.get_by_role("button", name="TPOT", exact=True).click()
    header = page.locator("th[aria-sort]")
    assert header.get_attribute("aria-sort") == "ascending"
    column = page.locator("#results-table tbody tr td:nth-of-type(6)")
    shown = [in_seconds(text) for text in column.all_inner_texts()]
    assert shown == sorted(shown)
    page.get_by_role("button", name="TPOT", exact=True).click()
    assert header.get_attribute("aria-sort") == "descending"
    page.select_option("#filter-kind", "run")
    page.select_option("#filter-technique", "copyspec")
    assert 0 < rows.count() < all_rows
    assert f"of {all_rows}" in page.locator("#results-count").inner_text()
    page.fill("#filter-text", "no such words")
    assert rows.count() == 0
    page.get_by_role("button", name="Clear").click()
    assert rows.count() == all_rows
    page.fill("#filter-text", "copyspec h100-sxm")
    page.locator("#results-table input[type=checkbox]").first.check()
    page.fill("#filter-text", "baseline h100-sxm")
    page.locator("#results-table input[type=checkbox]").first.check()
    page.get_by_role("button", name="Compare 2 chosen").click()
    page.wait_for_selector("#comparison table")
    page.fill("#filter-text", "")
    page.locator("#results-table .link").first.click()
    page.wait_for_selector("#comparison .summary")
    assert page.locator("#comparison th", has_text="error").count() == 4
    until(
        page,
        "() => { const found = [...document.querySelectorAll('#comparison img')];"
        " return found.length > 4 && found.every((i) => i.complete && i.naturalWidth > 0 && i.alt); }",
    )


def in_seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]


def figure(page: Any, title: str) -> str:
    return str(page.locator(".card", has_text=title).locator(".value").inner_text())


def predicted(page: Any, act: Callable[[], Any]) -> Any:
    """The prediction that follows `act`, once the page shows it."""
    settled = "document.querySelector('#figures').getAttribute('aria-busy') === 'false'"
    until(page, settled)  # whatever was asked before is answered
    with page.expect_response(lambda r: "/api/predict" in r.url) as response:
        act()
    until(page, settled)
    return response.value.json()


def test_a_choice_changes_the_figures_at_once(make: Callable[..., Page], open_server: Served) -> None:
    page = make(open_server).open("explore")
    told = predicted(page, lambda: page.select_option("#x-model", "llama-3.1-8b"))
    told = predicted(page, lambda: page.select_option("#x-device", "h100-sxm"))
    fast = figure(page, "Time per output token")
    assert in_seconds(fast) == pytest.approx(told["figures"]["tpot"]["mid"], rel=5e-3)
    assert page.locator("#figures .badge").inner_text() == "datasheet"
    page.get_by_role("button", name="Pin this choice").click()
    predicted(page, lambda: page.select_option("#x-device", "l4"))
    assert figure(page, "Time per output token") != fast
    assert (
        fast in page.locator(".card", has_text="Time per output token").locator(".pinned-value").inner_text()
    )
    page.wait_for_selector("#pareto .dot.other")
    assert page.locator("#pareto .present").count() == 1
    page.get_by_role("button", name="over devices").click()
    until(page, "document.querySelectorAll('#pareto .dot').length > 15")
    page.get_by_role("button", name="against energy").click()
    assert "energy per generated token" in page.locator("#pareto svg").text_content()
    page.locator("#pareto summary").click()
    predicted(page, lambda: page.locator("#pareto tbody").get_by_role("button", name="h200-sxm").click())
    assert page.input_value("#x-device") == "h200-sxm"
    page.select_option("#x-count", "4")
    told = predicted(page, lambda: page.select_option("#x-layout", label="tp 2 × dp 2"))
    assert told["figures"]["tokens_per_s"]["mid"] > 0
    assert "--tp 2" in page.locator(".command").inner_text()
    page.get_by_role("button", name="Unpin").click()
    assert page.locator(".pinned-value").count() == 0


def test_what_does_not_work_is_said_at_the_field(make: Callable[..., Page], open_server: Served) -> None:
    page = make(open_server).open("explore")
    page.check("#t-kivi")
    predicted(page, lambda: page.fill("#t-kivi-bits", "9"))
    page.wait_for_selector("#choice-error")
    assert "one of 2, 4, 8" in page.locator("[data-field='techniques.kivi'] .field-error").inner_text()
    assert page.locator("#explore-alert").inner_text()
    predicted(page, lambda: page.fill("#t-kivi-bits", "4"))
    page.wait_for_selector("#choice-error", state="detached")
    predicted(page, lambda: page.fill("#x-prompt", ""))
    assert page.locator("#x-prompt").get_attribute("aria-invalid") == "true"
    predicted(page, lambda: page.fill("#x-prompt", "64"))
    predicted(page, lambda: page.select_option("#x-device", "h100-sxm"))
    predicted(page, lambda: page.select_option("#x-model", "llama-3.1-405b"))
    until(page, "document.querySelector('#explore-alert').innerText.includes('does not fit')")


def test_pairs_that_exclude_each_other_are_shown_with_the_reason(
    make: Callable[..., Page], open_server: Served
) -> None:
    reason = "kivi and gemfilter cannot be combined: a reason"

    def changed(route: Any) -> None:
        found = route.fetch().json()
        found["refused"] = [{"first": "gemfilter", "second": "kivi", "reason": reason}]
        route.fulfill(json=found)

    tested = make(open_server)
    tested.page.route("**/api/choices", changed)
    page = tested.open("explore")
    page.check("#t-kivi")
    assert page.locator("#t-gemfilter").is_disabled()
    assert page.locator("#t-gemfilter-why").inner_text() == reason
    page.uncheck("#t-kivi")
    assert page.locator("#t-gemfilter").is_enabled()


def test_keys_alone_reach_everything(make: Callable[..., Page], open_server: Served) -> None:
    tested = make(open_server)
    page = tested.open("results")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.evaluate("location.hash") == "#results"
    tested.open("chat")
    page.focus(".skip")
    seen = []
    for _ in range(16):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert seen[:4] == ["Chat", "Results", "Explore", "theme"]
    assert {"new-chat", "log", "message", "send"} <= set(seen)
    page.locator("#settings summary").press("Enter")
    page.fill("#max-tokens", "6")
    page.focus("#message")
    page.keyboard.type("first")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    assert page.input_value("#message") == "first\nsecond"
    page.keyboard.press("Enter")
    answered(page)
    page.focus("text=Explore")
    page.keyboard.press("Enter")
    page.wait_for_selector("#figures .card")
    assert page.evaluate("location.hash") == "#explore"
    page.focus("#t-copyspec")
    predicted(page, lambda: page.keyboard.press("Space"))
    page.focus("text=Results")
    page.keyboard.press("Enter")
    page.wait_for_selector("#results-table tbody tr")
    page.focus("text=TTFT")
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("TTFT")
    page.focus("#theme")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_every_control_has_a_name(make: Callable[..., Page], open_server: Served) -> None:
    tested = make(open_server)
    for view in VIEWS:
        page = tested.open(view)
        nameless = page.evaluate(
            "() => [...document.querySelectorAll('input, select, textarea, button')].filter("
            "(c) => c.checkVisibility() &&"
            " !(c.labels?.length || c.getAttribute('aria-label') || c.textContent.trim())"
            ").map((c) => c.outerHTML)"
        )
        assert nameless == [], view


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_is_readable_wide_and_narrow_light_and_dark(
    make: Callable[..., Page], open_server: Served, width: int, scheme: str
) -> None:
    """No sideways scrolling, and every text stands out by 4.5 : 1."""
    tested = make(open_server, width=width, scheme=scheme)
    for view in VIEWS:
        page = tested.open(view)
        if view == "chat":
            say(page, "Hello", tokens=8)
            answered(page)
        if view == "explore":
            page.get_by_role("button", name="Pin this choice").click()
            page.wait_for_selector("#pareto .dot")
        if view == "results":
            page.locator("#results-table .link").first.click()
            page.wait_for_selector("#comparison img")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, view
        found = page.evaluate(CONTRAST)
        assert found["seen"] > 30
        assert found["poor"] == [], view
    page.evaluate("document.documentElement.style.setProperty('--soft', '#808890')")
    assert page.evaluate(CONTRAST)["poor"], "the test sees what is too pale"


def test_the_key_is_asked_for_and_kept_in_the_tab(make: Callable[..., Page], locked_server: Served) -> None:
    page = make(locked_server).page
    page.goto(locked_server.url)
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-dialog .field-error")
    page.fill("#key", KEY)
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("#serving:text-matches('copyspec')")
    say(page, "Hello", tokens=4)
    answered(page)
    assert page.evaluate("Object.values(sessionStorage)") == [KEY]
    assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
