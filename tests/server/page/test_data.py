"""What the page asks of the server: files with their headers, and data."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.report.examples import comparison, result
from tests.server.page.conftest import KEY, Served
from tests.waiting import PATIENCE

from twofold.report import svg
from twofold.server.page.assets import assets
from twofold.server.page.fragment import MOST

CHOICE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "device": "h100-sxm",
    "workload": {"concurrency": 4, "prompt": 256, "output": 32},
}
STATIC = resources.files("twofold.server.page") / "static"


@pytest.fixture(scope="module")
def client(open_server: Served) -> httpx.Client:
    return httpx.Client(base_url=open_server.url, timeout=PATIENCE)


def post(client: httpx.Client, path: str, **changes: Any) -> httpx.Response:
    return client.post(path, json={**CHOICE, **changes})


def test_files_have_a_policy_and_a_tag(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/main.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("name", ["nothing.js", "..%2froutes.py", "%2e%2e/routes.py", "routes.py"])
def test_only_the_pages_own_files_are_served(client: httpx.Client, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_nothing_is_loaded_from_elsewhere_and_nothing_parses_html() -> None:
    """The policy would stop it; this says where it stands."""
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|style=\"|https?://(?!www\.w3\.org)"
    )
    for name, asset in assets().items():
        found = forbidden.findall(asset.body.decode().replace("https?:\\/\\/", ""))
        assert not found, (name, found)


def test_every_module_and_sheet_that_is_named_is_there() -> None:
    for name, asset in assets().items():
        text = asset.body.decode()
        for wanted in re.findall(r'from "\./([\w.-]+)"|"/page/([\w.-]+)"', text):
            assert (wanted[0] or wanted[1]) in assets(), (name, wanted)


def test_the_page_has_the_colours_of_the_reports() -> None:
    """In light and dark, and the plots' own."""
    report = (resources.files("twofold.report") / "templates" / "report.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", part)) for part in report.split("@media", 2)[:2])
    ours = re.findall(
        r"--(\w+): light-dark\((#\w+), (#\w+)\);", (STATIC / "theme.css").read_text(encoding="utf-8")
    )
    found = {name: (a, b) for name, a, b in ours}
    assert {name: found[name] for name in light} == {name: (light[name], dark[name]) for name in light}
    assert [found[f"c{i}"][0] for i in range(len(svg.COLOURS))] == list(svg.COLOURS)


def test_live_tells_the_plan_and_every_worker(client: httpx.Client) -> None:
    live = client.get("/api/live").json()
    assert live["model"] == "tiny"
    assert live["label"] == "copyspec"
    assert live["limits"]["num_blocks"] > 0
    worker = live["workers"]["worker-0"]
    assert worker["num_blocks"] == live["limits"]["num_blocks"]
    assert {
        "steps",
        "step_seconds",
        "predicted_seconds",
        "drafted",
        "accepted",
        "techniques",
    } <= worker.keys()


def test_data_needs_the_key_and_the_page_does_not(locked_server: Served) -> None:
    with httpx.Client(base_url=locked_server.url, timeout=PATIENCE) as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/main.js").status_code == 200
        for path in ("/api/live", "/api/results", "/api/choices"):
            assert client.get(path).status_code == 401
        assert client.get("/api/live", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_choices_are_everything_that_can_be_predicted(client: httpx.Client) -> None:
    found = client.get("/api/choices").json()
    models = {model["name"]: model for model in found["models"]}
    assert models["mixtral-8x7b"]["experts"]
    assert not models["llama-3.1-8b"]["experts"]
    devices = {device["name"] for device in found["devices"]}
    assert {"this-cpu", "h100-sxm", "pim-gpt"} <= devices
    assert not devices & {"cpu", "cuda"}
    fields = {t["name"]: {f["name"]: f for f in t["fields"]} for t in found["techniques"]}
    assert fields["kivi"]["bits"] == {
        "name": "bits",
        "type": "number",
        "whole": True,
        "default": 2,
        "optional": False,
    }
    assert fields["int-vs-fp"]["rotate"]["type"] == "switch"
    assert fields["int-vs-fp"]["activations"] == {
        "name": "activations", "type": "text", "whole": False, "default": None, "optional": True,
    }  # fmt: skip
    assert found["served"]["techniques"][0]["name"] == "copyspec"
    assert "vllm" in {s["name"] for s in found["serving"]}


def test_a_prediction_is_that_of_predict(client: httpx.Client) -> None:
    from twofold.jobs.predict import predict_plan
    from twofold.plan import Plan

    told = post(client, "/api/predict", techniques=["kivi:bits=4"]).json()
    plan = Plan.from_dict({**CHOICE, "techniques": ["kivi:bits=4"]})
    direct = predict_plan(plan, "h100-sxm")
    assert direct.tpot is not None
    assert told["figures"]["tpot"] == pytest.approx(direct.tpot.model_dump())
    assert told["figures"]["tpot"]["low"] < told["figures"]["tpot"]["mid"] < told["figures"]["tpot"]["high"]
    assert told["memory"]["weights"] == direct.memory.weights.mid
    assert (told["confidence"], told["label"]) == ("datasheet", "kivi(bits=4)")
    assert sum(op["share"] for op in told["breakdown"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"device": "h10"}, "device", "unknown device 'h10'; did you mean 'h20'"),
        ({"device": "cpu"}, "device", "real device"),
        ({"device": "/etc/passwd.yaml"}, "device", "unknown device"),
        ({"model": "/etc/passwd"}, "model", "unknown model"),
        ({"model": "llama-3.1-8"}, "model", "did you mean 'llama-3.1-8b'"),
        ({"workload": {"prompt": -1}}, "workload.prompt", "greater than or equal to 1"),
        ({"workload": {"concurrency": 10**6}}, "workload.concurrency", f"at most {MOST['concurrency']:,}"),
        ({"workload": {"rate": 1, "concurrency": 2}}, "workload", "give one of them"),
        ({"workload": {"trace": "/etc/passwd"}}, "workload.trace", "not by a file"),
        ({"techniques": [{"name": "kivi", "params": {"bits": 9}}]}, "techniques.kivi", "one of 2, 4, 8"),
        ({"techniques": ["nothing"]}, "techniques.nothing", "allowed: "),
        ({"techniques": ["kivi", "kivi"]}, "techniques", "named twice"),
        ({"engine": {"weights": "int1"}}, "engine.weights", "'int4wo-32'"),
        ({"parallel": {"tp": 64}}, "plan", "tp may be at most 32"),
        ({"device": "pim-gpt", "parallel": {"tp": 2}}, "parallel", "single machine"),
        ({"model": "llama-3.1-405b"}, "memory", "does not fit on h100-sxm"),
        ({"quality": {"text": "/etc/passwd"}}, "quality", "unknown key"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_said_at_its_field(
    client: httpx.Client, changes: dict[str, Any], field: str, words: str
) -> None:
    refused = post(client, "/api/predict", **changes)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["type"]) == (field, "invalid_request_error")
    assert words in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"a": NaN}', b"\xff", b"7", b'["x"]'])
def test_bodies_that_are_no_choice_are_refused(client: httpx.Client, body: bytes) -> None:
    for path in ("/api/predict", "/api/sweep?over=devices", "/api/sweep?over=concurrency"):
        assert client.post(path, content=body).status_code == 400


def test_a_sweep_over_requests_at_a_time_holds_the_present_one(client: httpx.Client) -> None:
    load = {"concurrency": 6, "prompt": 256, "output": 32}
    points = post(client, "/api/sweep?over=concurrency", workload=load).json()["points"]
    assert [p["concurrency"] for p in points] == [1, 2, 4, 6, 8, 16, 32, 64, 128, 256, 512]
    speeds = [p["tokens_per_s"] for p in points[:8]]
    assert speeds == sorted(speeds)
    predicted = post(client, "/api/predict", workload=load).json()["figures"]
    assert points[3]["tokens_per_s"] == pytest.approx(predicted["tokens_per_s"]["mid"], rel=0.1)


def test_a_sweep_over_devices_says_what_is_left_out_and_why(client: httpx.Client) -> None:
    points = {p["device"]: p for p in post(client, "/api/sweep?over=devices").json()["points"]}
    assert points["h100-sxm"]["tokens_per_s"] > points["l4"]["tokens_per_s"] > 0
    assert points["h100-sxm"]["joules_per_token"] > 0
    assert "does not fit" in points["t4"]["refused"]
    assert points["t4"]["tokens_per_s"] is None
    cut = post(client, "/api/sweep?over=devices", parallel={"tp": 2}).json()["points"]
    assert "single machine" in next(p["refused"] for p in cut if p["device"] == "pim-gpt")
    assert post(client, "/api/sweep?over=devices", techniques=["nothing"]).status_code == 400
    assert client.post("/api/sweep?over=models", json=CHOICE).status_code == 400


def test_results_are_listed_newest_first(client: httpx.Client) -> None:
    found = client.get("/api/results").json()
    assert found["path"].endswith("results.sqlite")
    results = found["results"]
    assert len(results) == len(comparison().results) + 1
    assert [r["created"] for r in results] == sorted((r["created"] for r in results), reverse=True)
    run = next(r for r in results if r["kind"] == "run" and r["label"] == "copyspec")
    assert run["techniques"] == ["copyspec"]
    assert run["tpot"]["mid"] == pytest.approx(0.0312 / 1.34)
    assert run["error"]["tpot"] == pytest.approx(comparison_error("copyspec"))
    assert next(r for r in results if r["label"] == "alone")["comparison"] is None


def comparison_error(label: str) -> float:
    return next(row for row in comparison().rows if row.label == label).errors["tpot"]


def test_a_comparison_comes_with_its_plots(client: httpx.Client) -> None:
    found = client.get("/api/comparisons/1").json()
    assert found["title"] == comparison().title
    assert found["median_error"]["tpot"] == pytest.approx(comparison().median_error("tpot"))
    assert {p["title"] for p in found["pictures"]} >= {"Predicted against measured", "Memory by part"}
    for picture in found["pictures"]:
        assert picture["svg"].startswith("<svg")
        assert picture["alt"]
        assert "<" not in picture["alt"]
    assert any(row["refused"] for row in found["rows"])
    assert "no comparison 7" in client.get("/api/comparisons/7").json()["error"]["message"]


def test_chosen_results_are_held_against_each_other(client: httpx.Client) -> None:
    results = client.get("/api/results").json()["results"]
    ids = [r["id"] for r in results if r["label"] in ("baseline", "copyspec")]
    found = client.get("/api/results/compare", params={"ids": sorted(ids)}).json()
    assert [row["label"] for row in found["rows"]] == ["baseline", "copyspec"]
    assert found["rows"][1]["errors"]["tpot"] == pytest.approx(comparison_error("copyspec"))
    assert any(sentence.startswith("Fastest") for sentence in found["summary"])
    alone = next(r["id"] for r in results if r["label"] == "alone")
    refused = client.get("/api/results/compare", params={"ids": [ids[0], alone]})
    assert refused.status_code == 400
    assert "choose one model" in refused.json()["error"]["message"]
    assert client.get("/api/results/compare").status_code == 400
    assert client.get("/api/results/compare?ids=99").status_code == 400


def test_results_that_come_later_are_seen(client: httpx.Client, world: Path) -> None:
    from twofold.report.store import Store

    before = len(client.get("/api/results").json()["results"])
    Store(world / "results.sqlite").save(result("later", model="another-model"))
    assert len(client.get("/api/results").json()["results"]) == before + 1
