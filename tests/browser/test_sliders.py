"""The lessons with controls in real JupyterLab, in headless Chromium: run all cells, move every control by keyboard, look.

Skipped where there is no Chromium (Debian: apt-get install chromium) or no playwright. Screenshots and the time that each
control took to answer are kept in the folder that VIT_ARTEFACTS names, if it names one.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
ARTEFACTS = Path(os.environ["VIT_ARTEFACTS"]) if "VIT_ARTEFACTS" in os.environ else None
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},         # all cells are in the page, not only those in view
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}


def with_sliders():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        count = sum("slider" in cell["metadata"].get("tags", []) for cell in cells)
        if count:
            yield pytest.param(path, count, id=path.stem)


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -r requirements.txt")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory, browser):
    """The address of a JupyterLab of its own, on a copy of the notebooks: what runs here must not change the checkout.

    A notebook ends there with the figure below its last control; nbval runs what comes after.
    """
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for path in (each.values[0] for each in with_sliders()):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        last = max(i for i, cell in enumerate(notebook["cells"]) if "slider" in cell["metadata"].get("tags", []))
        twin = next(i for i, cell in enumerate(notebook["cells"]) if i > last and cell["cell_type"] == "code")
        del notebook["cells"][twin + 1:]
        (folder / "notebooks" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True",
         f"--ServerApp.root_dir={folder / 'notebooks'}"],
        env={**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder)},
        stdout=log, stderr=subprocess.STDOUT)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/api/status", timeout=2).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < until, (folder / "log").read_text(encoding="utf-8")
            time.sleep(0.2)
    yield address
    process.terminate()
    process.wait(20)


@pytest.fixture
def page(browser, server):
    """A fresh page; when the test is over, its kernels end with it."""
    fresh = browser.new_page(viewport={"width": 1300, "height": 1000})
    yield fresh
    for session in fresh.request.get(f"{server}/api/sessions").json():
        fresh.request.delete(f"{server}/api/sessions/{session['id']}")
    fresh.close()


def run_all(page, address, name):
    """Open a notebook, run all its cells, and wait until none is running."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector("#jp-main-statusbar >> text=| Idle", timeout=60_000)                # the kernel has started
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_function("document.querySelector('.jp-InputArea-prompt')?.textContent.includes('1') || "
                           "[...document.querySelectorAll('.jp-InputArea-prompt')].some(p => p.textContent.includes('*'))")
    page.wait_for_function("![...document.querySelectorAll('.jp-InputArea-prompt')].some(p => p.textContent.includes('*'))",
                           timeout=240_000)


def keep(page, name, locator=None):
    if ARTEFACTS:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        (locator or page).screenshot(path=ARTEFACTS / f"{name}.png")


def answer(picture, before, label):
    """Wait until the picture of a box is another one than `before`, and tell how long that took."""
    started = time.monotonic()
    while picture.inner_html() == before:
        assert time.monotonic() - started < 20, f"{label}: the picture did not change"
        time.sleep(0.01)
    print(f"{label}: answered after {(time.monotonic() - started) * 1000:.0f} ms")


@pytest.mark.parametrize("path, count", list(with_sliders()))
def test_every_control_answers_to_the_keyboard(page, server, path, count):
    run_all(page, server, path.name)
    errors = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
    assert page.locator(errors).all_inner_texts() == []
    boxes = page.locator(".vit-box")
    assert boxes.count() == count
    for b in range(count):
        box = boxes.nth(b)
        box.scroll_into_view_if_needed()
        picture = box.locator("> .widget-hbox > .widget-html")
        image = picture.locator("img")
        assert len(image.get_attribute("alt")) > 30
        assert image.evaluate("i => i.complete && i.naturalWidth") > 150, "a blank picture"
        keep(page, f"{path.stem}-{b}", box)
        handles = box.locator("> * .noUi-handle")
        assert handles.count() == box.locator("> .widget-inline-hbox:has(.noUi-handle) > label").count() >= 1
        for h in range(handles.count()):
            before, handle = picture.inner_html(), handles.nth(h)
            assert handle.get_attribute("role") == "slider"
            handle.focus()
            at_its_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
            label = box.locator("> .widget-inline-hbox:has(.noUi-handle) > label").nth(h).inner_text()
            far = label == "confidence, %"               # its first steps change nothing: no answer is so unsure
            page.keyboard.press("End" if far else "ArrowLeft" if at_its_end else "ArrowRight")
            if label != "page":                  # there may be one page only
                answer(picture, before, f"{path.stem}, {label}")
        keep(page, f"{path.stem}-{b}-moved", box)
        assert picture.locator("img, [role=alert]").count() == 1


@pytest.mark.parametrize("path", [next(with_sliders()).values[0]], ids=["02_patches"])
def test_pictures_carry_their_alt_text_and_a_size_that_does_not_fit_is_explained(page, server, path):
    run_all(page, server, path.name)
    pictures = page.locator(".jp-RenderedImage img")
    words = [details.text_content() for details in page.locator(".jp-OutputArea-output details").all()]
    assert len(words) == pictures.count() > 3
    assert all(text.startswith("The figure in words") and len(text) > 60 for text in words)
    box = page.locator(".vit-box").first
    box.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")                        # from 8 to 9, which does not divide 64
    box.locator("[role=alert]").wait_for()
    assert "64 is not divisible by patch size 9; choose a patch size such as" in box.inner_text()
    page.keyboard.press("End")
    box.locator("img").wait_for()
    assert "1 x 1 = 1 tokens" in box.locator("img").get_attribute("alt")
    for _ in range(8):
        page.keyboard.press("Home")
    page.wait_for_timeout(500)
    assert box.locator("img, [role=alert]").count() == 1
    keep(page, f"{path.stem}-ends", box)
