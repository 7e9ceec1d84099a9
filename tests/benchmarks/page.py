"""The page of a model in Chromium: its pictures for the README, and how fast it follows the hand.

    python tests/benchmarks/page.py --runtime node_modules/onnxruntime-web --pictures FOLDER
    python tests/benchmarks/page.py --runtime node_modules/onnxruntime-web

Without `--pictures` it prints the milliseconds from opening to the first pictures, those of an
evaluation of 8 images, and the frames drawn during a drag of three seconds, with 8 evaluations and
with one. It needs what `tests/test_page.py` needs.
"""

import argparse
import io
import math
import pathlib
import shutil
import tempfile
import threading
import time

from PIL import Image
from selenium import webdriver

import keras_ddim
from keras_ddim.cli.export import make_server

STATE = "seed=3"
FROZEN = f"{STATE}&frozen=1,0.7,0.5,0.2&frozen-guidance=1.5"
PHONE = {"width": 390, "height": 844, "pixelRatio": 2.0}
FRAMES = 14
# Moves a point by so many pixels from where it was first, or all the time for some seconds.
MOVE = """
    const [i, y] = arguments, point = document.querySelectorAll("[role=slider]")[i];
    const box = point.getBoundingClientRect(), x = box.x + box.width / 2;
    const send = (kind, y) => point.dispatchEvent(
        new PointerEvent(kind, {pointerId: 1, clientX: x, clientY: y, bubbles: true}));
    point.setPointerCapture = () => {};
    if (window.start === undefined) {
        window.start = box.y + box.height / 2;
        send("pointerdown", window.start);
    }
    send("pointermove", window.start + y);
"""
DRAG = (
    "const done = arguments[3], seconds = arguments[2], begin = performance.now();"
    "performance.clearMarks('live');"
    f"const move = function () {{ {MOVE} }};"
    """
    const tick = () => {
        const t = (performance.now() - begin) / 1000;
        if (t > seconds) return done(performance.getEntriesByName("live").length);
        move(arguments[0], 40 * Math.sin(4 * t));
        requestAnimationFrame(tick);
    };
    tick();
"""
)


def browse(width, height, dark=False, phone=False):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    if phone:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    if not phone:
        driver.set_window_size(width, height)
    return driver


def settle(driver):
    """Waits until all that was asked for is drawn."""
    while driver.execute_script("return document.getElementById('pictures').ariaBusy !== 'false'"):
        time.sleep(0.02)


def show(driver, address, state):
    driver.get("about:blank")
    driver.get(f"{address}#{state}")
    settle(driver)


def shot(driver):
    # How long the last pictures took is nothing for a picture.
    driver.execute_script(
        "const s = document.getElementById('status'); s.textContent = s.textContent.split(',')[0]"
    )
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def draw(address, folder):
    for name, dark, state in (("page", False, FROZEN), ("page_dark", True, STATE)):
        driver = browse(1180, 800, dark)
        show(driver, address, state)
        height = driver.execute_script("return document.documentElement.scrollHeight")
        driver.set_window_size(1180, 140 + height)
        settle(driver)
        shot(driver).quantize(256).save(folder / f"{name}.png", optimize=True)
        driver.quit()
    driver = browse(0, 0, phone=True)
    show(driver, address, STATE)
    picture = shot(driver).resize((PHONE["width"], PHONE["height"]), Image.Resampling.LANCZOS)
    picture.quantize(256).save(folder / "page_phone.png", optimize=True)
    driver.quit()
    driver = browse(1180, 760)
    show(driver, address, f"{STATE}&times=1,0.8,0.55,0.3")
    top, bottom = driver.execute_script(
        "const box = document.querySelector('.axes').getBoundingClientRect();"
        "return [box.top, box.bottom]"
    )
    frames = []
    for frame in range(FRAMES):
        height = math.sin(2 * math.pi * frame / FRAMES)
        driver.execute_script(MOVE, 1, (120 if height > 0 else 40) * height)
        time.sleep(0.3)
        settle(driver)
        part = shot(driver).crop((16, int(top) - 8, 1164, int(bottom) + 8))
        frames.append(part.resize((820, round(820 * part.height / part.width))))
    driver.quit()
    palette = Image.new("RGB", (820, 4 * frames[0].height))
    for place, frame in enumerate(frames[:: FRAMES // 4 + 1]):
        palette.paste(frame, (0, place * frame.height))
    palette = palette.quantize(256)
    first, *others = (frame.quantize(palette=palette) for frame in frames)
    path = folder / "page_dragging.gif"
    first.save(path, save_all=True, append_images=others, duration=220, loop=0, optimize=True)


def measure(address):
    driver = browse(1200, 1000)
    driver.set_script_timeout(60)
    show(driver, address, f"{STATE}&guidance=1&shape=uniform")
    first = driver.execute_script("return performance.getEntriesByName('live')[0].startTime")
    print(f"first pictures after {first:.0f} ms")
    for times in ("1,0.875,0.75,0.625,0.5,0.375,0.25,0.125", "0.8"):
        count = len(times.split(","))
        show(driver, address, f"{STATE}&guidance=1&times={times}")
        print(driver.find_element("id", "status").text)
        frames = driver.execute_async_script(DRAG, count // 2, 0, 3)
        print(f"{count} evaluations: {frames} frames in 3 s")
    driver.quit()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--model", default="flowers")
    parser.add_argument("--pictures", type=pathlib.Path)
    args = parser.parse_args()
    model = keras_ddim.DiffusionModel.from_preset(args.model)
    with tempfile.TemporaryDirectory() as folder:
        page = pathlib.Path(folder, "page")
        options = {"guidance_scale": 1.5, "runtime": args.runtime}
        keras_ddim.export.export_page(model, page, title="Sampling times by hand", **options)
        with make_server(page) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/"
            draw(address, args.pictures) if args.pictures else measure(address)
            server.shutdown()


if __name__ == "__main__":
    main()
