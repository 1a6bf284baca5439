"""The lessons with controls in real JupyterLab, in headless Chromium: all cells run, every control moves.

Skipped where there is no Chromium (Debian: apt-get install chromium) or no playwright. VIT_ARTEFACTS names a
folder for screenshots.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.release
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},   # all cells are in the page
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


def sliders(notebook):
    """The numbers of the cells that show controls."""
    return [i for i, cell in enumerate(notebook["cells"]) if "slider" in cell["metadata"].get("tags", [])]


LESSONS = {path.name: notebook for path in sorted(NOTEBOOKS.glob("*.ipynb"))
           if sliders(notebook := json.loads(path.read_text(encoding="utf-8")))}


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory, browser):
    """The address of a JupyterLab on copies of the notebooks, which end after their last control's figure."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for name, notebook in LESSONS.items():
        cells, last = notebook["cells"], sliders(notebook)[-1]
        twin = next(i for i, cell in enumerate(cells) if i > last and cell["cell_type"] == "code")
        text = json.dumps({**notebook, "cells": cells[:twin + 1]})
        (folder / "notebooks" / name).write_text(text, encoding="utf-8")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    environment = {**os.environ, "VIT_SMOKE": "1", "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                   "JUPYTERLAB_WORKSPACES_DIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
    words = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.token=",
             "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *words], env=environment, stdout=log,
                                   stderr=subprocess.STDOUT)
    found, until = pytest.importorskip("jupyter_server.serverapp").list_running_servers, time.monotonic() + 60
    while not (running := list(found(folder))):
        assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text("utf-8")
        time.sleep(0.2)
    yield running[0]["url"].rstrip("/")
    process.terminate()
    process.wait(20)


@pytest.fixture
def run_all(browser, server):
    """run_all(name) opens a notebook, runs all its cells, and gives the page when they are done."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})

    def run(name):
        page.goto(f"{server}/lab/tree/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
        page.wait_for_selector("#jp-main-statusbar >> text=| Idle", timeout=60_000)   # the kernel has started
        page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
        prompts = "[...document.querySelectorAll('.jp-InputArea-prompt')].map(p => p.textContent)"
        page.wait_for_function(f"{prompts}.some(text => text.includes('*') || text.includes('1'))")
        page.wait_for_function(f"!{prompts}.some(text => text.includes('*'))", timeout=240_000)
        return page

    yield run
    for session in page.request.get(f"{server}/api/sessions").json():
        page.request.delete(f"{server}/api/sessions/{session['id']}")
    page.close()


@pytest.mark.parametrize("name", LESSONS)
def test_every_control_answers_to_the_keyboard(run_all, name):
    page = run_all(name)
    for kind in ("stderr", "error"):
        assert page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']").all_inner_texts() == []
    boxes = page.locator(".vit-box")
    assert boxes.count() == len(sliders(LESSONS[name]))
    for b, box in enumerate(boxes.all()):
        box.scroll_into_view_if_needed()
        picture = box.locator("> .widget-hbox > .widget-html")
        assert len(picture.locator("img").get_attribute("alt")) > 30
        assert picture.locator("img").evaluate("i => i.complete && i.naturalWidth") > 150, "a blank picture"
        labels = box.locator("> .widget-inline-hbox:has(.noUi-handle) > label").all_inner_texts()
        assert box.locator("> * .noUi-handle").count() == len(labels) >= 1
        for handle, label in zip(box.locator("> * .noUi-handle").all(), labels, strict=True):
            before = picture.inner_html()
            assert handle.get_attribute("role") == "slider"
            handle.focus()
            at_its_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            far = label == "confidence, %"            # its first steps change nothing: no answer is so unsure
            page.keyboard.press("End" if far else "ArrowLeft" if at_its_end else "ArrowRight")
            until = time.monotonic() + 20
            while picture.inner_html() == before and label != "page":     # there may be one page only
                assert time.monotonic() < until, f"{label}: the picture did not change"
                time.sleep(0.01)
        assert picture.locator("img, [role=alert]").count() == 1
        if "VIT_ARTEFACTS" in os.environ:
            box.screenshot(path=Path(os.environ["VIT_ARTEFACTS"], f"{name}-{b}.png"))
