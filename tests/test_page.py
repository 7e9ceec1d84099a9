"""The page in a real browser: its pictures are those of `generate`, and everybody can use it.

It needs Chromium, its driver, selenium, and in `node_modules`, by `npm install --no-save
onnxruntime-web@VERSION axe-core`, the runtime and axe.
"""

import contextlib
import json
import pathlib
import re
import shutil
import threading
import time

import keras
import numpy as np
import pytest

import keras_ddim
from keras_ddim import export
from keras_ddim.cli.export import make_server

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("tf2onnx", reason="keras-ddim[export] is not installed")

MODULES = pathlib.Path(__file__).parents[1] / "node_modules"
RUNTIME, AXE = MODULES / export.RUNTIME, MODULES / "axe-core" / "axe.min.js"
CHROME = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are TensorFlow's"),
    pytest.mark.skipif(not (CHROME and DRIVER), reason="there is no Chromium with its driver"),
    pytest.mark.skipif(not RUNTIME.exists(), reason=f"{RUNTIME} is not installed"),
]
BENT = [0.98, 0.9, 0.52, 0.5, 0.13]


def make_model(**options):
    network = keras_ddim.ModulatedUNet((8, 8, 3), (8, 16), num_classes=2, seed=0, **options)
    model = keras_ddim.DiffusionModel(
        network=network, prediction_type="velocity", class_names=["a", "b"]
    )
    rng = np.random.default_rng(0)
    for weight in model.ema_network.weights:
        values = rng.normal(0, 0.1, weight.shape)
        weight.assign(abs(1 + values) if "variance" in weight.path else values)
    model.adapt(rng.random((20, 8, 8, 3)).astype("float32"))
    model.keep_times([1.0, 0.7, 0.3])
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    with served(model, tmp_path_factory.mktemp("page") / "page") as address:
        yield address


@contextlib.contextmanager
def served(model, folder):
    """The address of the page of a model, served from this machine."""
    export.export_page(model, folder, title="squares", runtime=RUNTIME)

    with make_server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    # Requests to anywhere else fail, and are errors in the console.
    local = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1200,1000", local):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


class Page:
    """What a visitor does on the page, and sees."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address

    def open(self, state=""):
        self.browser.get("about:blank")
        self.browser.get(f"{self.address}#{state}")
        self.settle()

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def settle(self):
        """Waits until nothing is left to be drawn, and the address says what is."""
        deadline = time.monotonic() + 60
        while self.run("return document.getElementById('pictures').ariaBusy !== 'false'"):
            assert time.monotonic() < deadline, self.find("#status").text
            time.sleep(0.02)
        assert "No pictures" not in self.find("#status").text

    def pictures(self, row="live"):
        """Pixels in [0, 1], as `generate` returns them."""
        script = """
            return [...document.querySelectorAll(`#${arguments[0]} canvas`)].map((canvas) => [
                ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]);
        """
        return np.array(self.run(script, row)).reshape(8, 8, 8, 4)[..., :3] / 255

    def code(self):
        return self.run("return document.getElementById('code').value")

    def times(self):
        return json.loads(re.search(r"\[[\d., ]+\]", self.code())[0])

    def point(self, i):
        return self.browser.find_elements("css selector", "[role=slider]")[i]

    def press(self, keys):
        self.browser.switch_to.active_element.send_keys(keys)
        self.settle()


@pytest.fixture
def page(browser, address):
    return Page(browser, address)


def errors(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.parametrize("sampler", ["unipc", "ddim"])
@pytest.mark.parametrize("times", [[1.0, 0.75, 0.5, 0.25], BENT])
def test_pictures_are_those_of_generate(page, model, times, sampler):
    options = {"labels": "b", "guidance_scale": 1.5} if times is BENT else {"labels": [0, 1] * 4}
    state = f"times={','.join(map(str, times))}&sampler={sampler}&seed=3"
    page.open(state + ("&label=b&guidance=1.5" if times is BENT else ""))
    difference = abs(page.pictures() - model.generate(8, times, sampler=sampler, seed=3, **options))
    assert difference.mean() < 1 / 255 and difference.max() <= 3 / 255
    call = page.code().replace("model.generate", "dict").replace("dict(8,", "dict(times=")
    assert {"times": times, "sampler": sampler, "seed": 3}.items() <= eval(call).items()
    assert np.ptp(page.pictures()) > 0.5 and errors(page.browser) == []


def test_pictures_of_a_network_that_is_conditioned_on_the_next_level(browser, tmp_path):
    model = make_model(next_level=True)
    model.metadata.clear()
    with served(model, tmp_path / "page") as address:
        page = Page(browser, address)
        for times in (BENT, BENT[:-1]):  # what the last step aims at has changed
            page.open(f"times={','.join(map(str, times))}&sampler=ddim&seed=3")
            options = {"labels": [0, 1] * 4, "sampler": "ddim", "seed": 3}
            difference = abs(page.pictures() - model.generate(8, times, **options))
            assert difference.mean() < 1 / 255 and difference.max() <= 3 / 255
        page.open()
        assert page.times() == [1.0, 0.5] and 'sampler="ddim"' in page.code()


def test_no_request_leaves_the_origin(page, address):
    page.browser.get_log("performance")
    page.open()
    messages = [json.loads(e["message"])["message"] for e in page.browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in sent]
    assert any(url.endswith("index.html") or url.rstrip("#") == address for url in urls)
    local = (address, f"blob:{address}", "data:", "about:")
    assert [url for url in urls if not url.startswith(local)] == []


def test_dragging_changes_the_pictures(page):
    page.open(f"times={','.join(map(str, BENT))}")
    before, point = page.pictures(), page.point(2)
    webdriver.ActionChains(page.browser).drag_and_drop_by_offset(point, 0, 60).perform()
    page.settle()
    assert page.times()[2] < BENT[2] and abs(page.pictures() - before).max() > 0.02
    times = page.times()
    assert times == sorted(times, reverse=True) and times[:2] == BENT[:2]


def test_keyboard_does_all_that_the_mouse_does(page):
    page.open(f"times={','.join(map(str, BENT))}")
    before = page.pictures()
    page.point(2).send_keys(webdriver.Keys.ARROW_UP * 5)
    page.settle()
    assert page.times()[2] > BENT[2] and abs(page.pictures() - before).max() > 0.01
    assert "noise" in page.point(2).get_attribute("aria-valuetext")
    page.press(webdriver.Keys.DELETE)
    assert len(page.times()) == len(BENT) - 1
    page.press("+")
    assert len(page.times()) == len(BENT)
    page.press(webdriver.Keys.HOME)
    assert len({*page.times()}) == len(BENT)


def test_the_address_restores_the_state(page):
    page.open("shape=uniform&sampler=ddim&seed=7&label=a")
    page.find("#freeze").click()
    page.point(1).send_keys(webdriver.Keys.PAGE_DOWN * 4)
    page.settle()
    kept = page.code(), page.pictures(), page.pictures("frozen")
    assert abs(kept[1] - kept[2]).max() > 0.01
    page.open(page.browser.current_url.split("#")[1])
    assert page.code() == kept[0]
    np.testing.assert_array_equal(page.pictures(), kept[1])
    np.testing.assert_array_equal(page.pictures("frozen"), kept[2])


def test_form(page, model):
    page.open()
    shapes = [option.text for option in page.find("#shape").find_elements("tag name", "option")]
    assert page.times() == [1.0, 0.7, 0.3] and "best:3" in shapes
    code = page.find("#code")
    code.clear()
    code.send_keys("generate(8, [0.9, 0.4])")
    page.settle()
    assert page.times() == [0.9, 0.4]
    code.clear()
    code.send_keys("[0.4, 0.9]")
    assert code.get_attribute("aria-invalid") == "true" and "fall" in page.find("#message").text
    page.find("#add").click()
    page.settle()
    assert len(page.times()) == 3
    page.find("#remove").click()
    page.find("#steps").send_keys(webdriver.Keys.END)
    page.settle()
    assert len(page.times()) == 20
    before = page.code()
    page.find("#new").click()
    page.settle()
    assert page.code() != before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility(page, theme):
    if not AXE.exists():
        pytest.skip(f"{AXE} is not installed")
    features = [{"name": "prefers-color-scheme", "value": theme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.open("frozen=1,0.5")
    page.run(AXE.read_text(encoding="utf-8"))
    found = page.browser.execute_async_script("axe.run().then(arguments[0])")["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in serious] == []


def test_narrow_screens_do_not_scroll_sideways(page):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open("frozen=1,0.5")
        assert page.run("return document.documentElement.scrollWidth") <= 360
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
