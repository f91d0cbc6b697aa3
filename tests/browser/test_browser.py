"""A newcomer's way in a real Chromium: quickstart, import, pages, a tick, MLflow, the report.

With FPAREC_SCREENSHOTS naming a folder, pictures of what was seen go there: they are the
documentation's. The data root is then a copy of the checkout's, after `make quickstart`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright import sync_api
from processes import wait_until
from servers import MAIN, served

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.results.tick import tick_path
from fparec_pipeline.running.context import open_instance
from fparec_pipeline.serving.champion import read_champion

CHECKOUT = Path(__file__).parents[2]
PICTURES = os.environ.get("FPAREC_SCREENSHOTS")
TRAINING_S = 900.0
pytestmark = [pytest.mark.browser, pytest.mark.timeout(2 * TRAINING_S)]

PATIENCE_S = 240.0  # two busy cores
sync_api.expect.set_options(timeout=PATIENCE_S * 1000)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DATASET = "ml-latest-small"
TRAINING = "?workflowType=machine_learning"
QUICK = f"""
[{DATASET}.hyperparameters]
n = 10
d = 8
k = 4
min_epochs = 1
max_epochs = 2
patience = 2
"""
SMALL_BENCHMARK = """
[benchmark]
models = ["sasrec", "fparec"]
seeds = [0, 1]
"""


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "There is no Chromium: `make test-browser` installs it."
    return found


def fparec(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"FPAREC_DATA": str(root)}
    result = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """What the README's commands leave: a trained dataset, its champion, what is published."""
    root = tmp_path_factory.mktemp("root") / "data"
    if PICTURES:
        shutil.copytree(CHECKOUT / "data", root)
    else:
        root.mkdir()
        (root / "datasets.toml").write_text(QUICK)
        fparec(root, "run", "--datasets", DATASET, "--models", "sasrec", "--seeds", "0")
    (root / "studies.toml").write_text(SMALL_BENCHMARK)
    for command in (["promote", DATASET], ["recommend", DATASET], ["results", "import"]):
        fparec(root, *command)
    return root


@pytest.fixture(scope="module")
def servers(root) -> Iterator[tuple[str, str]]:
    """Addresses of Dagster and MLflow, served by `fparec dev`."""
    with served(root) as pages:
        yield pages.dagster, pages.mlflow


@pytest.fixture(scope="module")
def champion(root) -> str:
    """The fingerprint of the dataset's champion, which has recommended."""
    return read_champion(DATASET, DataRoot(root)).fingerprint


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE_S * 1000)
    page.set_default_navigation_timeout(PATIENCE_S * 1000)
    yield page
    page.close()


def screenshot(page, name: str) -> None:
    if PICTURES:
        path = Path(PICTURES) / f"{name}.png"
        page.screenshot(path=path, animations="disabled")
        # A third of the size, and all colours that these pages have.
        few = Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def test_dagster_shows_the_graph_with_its_groups(servers, page):
    page.goto(f"{servers[0]}/asset-groups")
    groups = ("data", "benchmark_arms", "study_arms", "results", "serving", "tables", "figures")
    for group in groups:
        sync_api.expect(page.get_by_text(group, exact=True).first).to_be_visible()
    screenshot(page, "dagster-graph")
    page.goto(f"{servers[0]}/assets")
    sync_api.expect(page.get_by_text("leaderboard", exact=True).first).to_be_visible()
    sync_api.expect(page.get_by_text("Materialized").first).to_be_visible()
    sync_api.expect(page.get_by_text(re.compile("^Loading"))).to_have_count(0)
    screenshot(page, "dagster-assets")


def test_a_partition_is_materialised_by_clicking(servers, page):
    page.goto(f"{servers[0]}/assets/trained/parec_fast?view=partitions")  # not trained yet
    for dimension in ("dataset", "seed"):
        sync_api.expect(page.get_by_placeholder(f"Filter by {dimension}…")).to_be_visible()
    page.get_by_text(DATASET, exact=True).first.click()
    page.get_by_text("0", exact=True).first.click()
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Launch 1 run").click()
    done = page.get_by_text("Materialized (1)")
    sync_api.expect(done).to_be_visible(timeout=TRAINING_S * 1000)
    page.reload()  # the partition's panel does not follow by itself
    page.get_by_text(DATASET, exact=True).first.click()
    page.get_by_text("0", exact=True).first.click()
    sync_api.expect(page.get_by_text("test/ndcg_at_10").first).to_be_visible()
    picture = page.locator("img[src^='data:image/png']").first
    if not picture.is_visible():  # some versions fold markdown away
        page.get_by_text("Show Markdown").first.click()
    sync_api.expect(picture).to_be_visible()
    screenshot(page, "dagster-partition")


def test_a_tick_of_the_schedule_runs_to_its_end(servers, root, page):
    """Launched by hand from its page; a second look at the report says nothing of a failure."""
    page.goto(f"{servers[0]}/locations/fparec_pipeline.definitions/schedules/weekly_benchmark")
    page.get_by_role("button", name="Preview tick result").first.click()
    page.get_by_role("button", name="Continue").click()
    sync_api.expect(page.get_by_text("Requested runs (1)")).to_be_visible()  # trained here: one
    screenshot(page, "dagster-schedule")
    page.get_by_role("button", name="Launch all & commit tick result").click()
    path = tick_path(DataRoot(root))
    wait_until(path.exists, "the tick", TRAINING_S)
    tick = json.loads(path.read_text())
    assert tick["runs"] > 1 and tick["failed"] == []
    page.goto(f"{servers[0]}/runs?q[0]=tag:fparec/tick={tick['tick']}")
    sync_api.expect(page.get_by_text("train_benchmark").first).to_be_visible()
    assert page.get_by_text("Failure", exact=True).count() == 0


def test_the_reports_asset_links_to_the_report(servers, root, page):
    page.goto(f"{servers[0]}/assets/report")
    page.get_by_role("button", name="Materialize").first.click()
    launched = page.locator("a[href^='/runs/']", has_text=re.compile("^View$"))
    confirm = page.get_by_role("button", name="Confirm")
    sync_api.expect(launched.or_(confirm).first).to_be_visible()
    if confirm.is_visible():  # where the sensor has not yet rendered what the report is made from
        confirm.click()
    run = launched.first.get_attribute("href").removeprefix("/runs/")
    # Not the latest materialization's run: the tick's end renders the report too.
    with open_instance(DataRoot(root)) as instance:
        wait_until(lambda: instance.get_run_by_id(run).is_success, "the report's run", PATIENCE_S)
    page.reload()  # the metadata does not follow by itself
    with page.expect_popup() as opened:
        page.locator(f"a[href^='{servers[1]}'][href*='report.html']").first.click()
    report = opened.value.frame_locator("iframe")
    sync_api.expect(report.get_by_role("heading", name="Verdict")).to_be_visible()


def close_the_assistant(page) -> None:
    """MLflow opens it beside the page at the first visit."""
    page.get_by_role("button", name="Close").first.click()


def trial_runs(client):
    """The experiment and its finished runs of trials."""
    experiment = client.get_experiment_by_name("fparec").experiment_id
    found = client.search_runs([experiment], "tags.superseded = 'false'")
    return experiment, [run for run in found if run.info.status == "FINISHED"]


def test_mlflow_finds_the_run_with_its_tags_and_its_model(servers, page):
    from mlflow import MlflowClient

    experiment, runs = trial_runs(MlflowClient(tracking_uri=servers[1]))
    run = next(run for run in runs if run.data.tags["model"] == "sasrec")
    page.goto(f"{servers[1]}/#/experiments/{experiment}/runs/{run.info.run_id}{TRAINING}")
    sync_api.expect(page.get_by_text("ml-latest-small").first).to_be_visible()
    sync_api.expect(page.get_by_text("test/ndcg_at_10").first).to_be_visible()
    close_the_assistant(page)
    screenshot(page, "mlflow-run")
    page.goto(f"{servers[1]}/#/experiments/{experiment}/models{TRAINING}")
    sync_api.expect(page.get_by_text("sasrec-ml-latest-small-seed-0").first).to_be_visible()


def followed(page, name: str):
    """The page of a link in an experiment's description, which MLflow opens in a tab of its own."""
    with page.expect_popup() as opened:
        page.get_by_role("link", name=name, exact=True).first.click()
    return opened.value


def test_mlflow_shows_the_leaderboard_by_one_click_and_the_seeds_nested(servers, root, page):
    """From the experiment's page, by the link in its description; the order is the official one."""
    from mlflow import MlflowClient

    experiment, _ = trial_runs(MlflowClient(tracking_uri=servers[1]))
    rows = json.loads(fparec(root, "leaderboard", "--dataset", DATASET, "--json").stdout)
    official = [f"{row['model']} · {DATASET}" for row in rows]
    page.goto(f"{servers[1]}/#/experiments/{experiment}/runs{TRAINING}")
    page = followed(page, DATASET)
    close_the_assistant(page)
    # The order on the page is that of `row-index`, whatever the order in the document. A row's
    # first lines are of its colour.
    shown = """rows => rows.map(r => [Number(r.getAttribute("row-index")),
        r.innerText.split("\\n").map(t => t.trim()).find(t => t.includes(" · "))])
        .filter(([, name]) => name).sort(([a], [b]) => a - b).map(([, name]) => name)"""

    def settled(expected: list[str]) -> None:
        last = time.monotonic() + PATIENCE_S
        rows = page.locator("[role=row]")
        while (found := list(dict.fromkeys(rows.evaluate_all(shown)))) != expected:
            assert time.monotonic() < last, found
            page.wait_for_timeout(200)

    settled(official)
    sync_api.expect(page.get_by_text("median/test/ndcg_at_10/low").first).to_be_visible()
    screenshot(page, "mlflow-leaderboard")
    page.locator("[role=columnheader][col-id='metrics.`median/test/ndcg_at_10`']").click()
    settled(official[::-1])
    page.goto(f"{servers[1]}/#/experiments/{experiment}/runs{TRAINING}")
    page = followed(page, "All runs, seeds nested in their median")
    name = f"sasrec · {DATASET}"
    row = page.locator("[role=row]", has=page.get_by_text(name, exact=True)).first
    row.locator("button.du-bois-light-btn-icon-only").first.click()  # opens it
    sync_api.expect(page.get_by_text(f"sasrec 0 · {DATASET}").first).to_be_visible()
    screenshot(page, "mlflow-seeds")


def test_dagster_shows_the_champion_and_its_recommendations(servers, champion, page):
    page.goto(f"{servers[0]}/locations/fparec_pipeline.definitions/asset-groups/serving")
    for asset in ("champion", "recommendations"):
        sync_api.expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    sync_api.expect(page.get_by_text("1 / 1 Passed").first).to_be_visible()  # `sound`
    page.goto(f"{servers[0]}/assets/champion?view=partitions&partition=ml-latest-small")
    sync_api.expect(page.get_by_text(champion).first).to_be_visible()
    screenshot(page, "dagster-champion")


def test_mlflows_registry_has_the_champion(servers, champion, page):
    page.goto(f"{servers[1]}/#/models/fparec-ml-latest-small{TRAINING}")
    sync_api.expect(page.get_by_text("Version 1").first).to_be_visible()
    sync_api.expect(page.get_by_text(re.compile(r"^@\s*champion$")).first).to_be_visible()
    page.goto(f"{servers[1]}/#/models/fparec-ml-latest-small/versions/1")
    sync_api.expect(page.get_by_text(champion).first).to_be_visible()


def test_the_report_sorts_by_keyboard_and_fits_a_phone(root, page):
    fparec(root, "report")
    errors = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or errors.append(r.url))
    page.goto((root / "results" / "report.html").as_uri())
    sync_api.expect(page.get_by_role("heading", name="Verdict")).to_be_visible()
    screenshot(page, "report")
    page.set_viewport_size({"width": 700, "height": 900})
    contents = page.get_by_role("navigation", name="Contents")
    assert contents.evaluate("nav => nav.scrollWidth <= nav.clientWidth")  # no link is cut off
    page.set_viewport_size({"width": 1440, "height": 900})
    table = page.locator("#benchmark table, #table_3 table").first
    head = table.locator("th").nth(1)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    column = "rows => rows.map(r => r.cells[1].dataset.value).filter(v => v).map(Number)"
    values = table.locator("tbody tr").evaluate_all(column)
    assert len(values) > 2 and values == sorted(values, reverse=True)
    page.keyboard.press("Enter")
    assert table.locator("tbody tr").evaluate_all(column) == sorted(values)
    mark = page.locator(".forest .mark").first
    mark.hover()
    words = mark.get_attribute("aria-label")
    assert re.search(r"\d\.\d{4}", words)
    sync_api.expect(page.locator(".forest .now").first).to_have_text(words)
    name = words.partition(":")[0]
    sync_api.expect(page.locator("#datasets tr.on td").first).to_have_text(name)  # its row too
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": 380, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
    page.reload()  # on a phone the tables are folded from the start
    assert page.locator("details.block[open]").count() == 0
    assert page.evaluate("document.documentElement.scrollHeight") < 25_000
    screenshot(page, "report-phone")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1046, "height": 720})  # A4 in landscape, less its margins
    widths = page.locator("table").evaluate_all("tables => tables.map(t => t.offsetWidth)")
    assert max(widths) <= 1046
    pages = re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf(prefer_css_page_size=True))
    assert 0 < len(pages) < 20
    closed = page.locator("details:not([open]):not(.screen):not(.screen details)")
    assert closed.count() == 0
    assert errors == []
