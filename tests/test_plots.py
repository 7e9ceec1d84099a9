import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest

import keras_ddim
from keras_ddim import plots


def read(path):
    with PIL.Image.open(path) as image:
        image.load()
        return image


@pytest.fixture
def pictures():
    return np.random.default_rng(0).random((5, 6, 4, 3)).astype("float32")


# Grids


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_holds_each_image_at_its_place(channels):
    images = np.random.default_rng(1).random((5, 6, 4, channels)).astype("float32")
    grid = plots.image_grid(images, columns=2, margin=1)
    assert grid.shape == (3 * 7 + 1, 2 * 5 + 1, channels)
    np.testing.assert_array_equal(grid[1:7, 1:5], images[0])
    np.testing.assert_array_equal(grid[1:7, 6:10], images[1])
    np.testing.assert_array_equal(grid[15:21, 1:5], images[4])
    background = [1.0, 1.0, 1.0, 0.0] if channels == 4 else [1.0] * channels
    np.testing.assert_array_equal(grid[0, 0], background)
    np.testing.assert_array_equal(grid[15, 6], background)  # the empty cell


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (2, (1, 2)), (10, (3, 4)), (16, (4, 4))])
def test_grid_is_as_square_as_it_gets(count, shape):
    grid = plots.image_grid(np.zeros((count, 8, 8, 1)), margin=0)
    assert grid.shape == (8 * shape[0], 8 * shape[1], 1)


def test_grid_takes_grey_images_without_channels_and_integers():
    images = np.arange(2 * 3 * 3, dtype="uint8").reshape(2, 3, 3) * 10
    grid = plots.image_grid(images, columns=2, margin=0)
    np.testing.assert_allclose(grid[:, 3:, 0], images[1] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((0, 4, 4, 3)), "at least one image"),
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
        (np.zeros((2, 4, 4, 2)), "1, 3 or 4 channels"),
        (np.full((2, 4, 4, 3), 1.5), "1.5"),
        (np.full((2, 4, 4, 3), np.nan), "nan"),
        (np.full((2, 4, 4, 3), 300), "300|1.17"),
    ],
)
def test_grid_refuses_what_is_no_picture(images, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images)


@pytest.mark.parametrize("columns", [0, -1, 2.5, "3"])
def test_columns_must_be_a_positive_integer(pictures, columns):
    with pytest.raises(ValueError, match="columns"):
        plots.plot_images(pictures, columns)


# Files


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_saved_image_has_its_pixels(tmp_path, channels, mode):
    pixels = np.random.default_rng(2).integers(0, 256, (7, 5, channels), "uint8")
    plots.save_image(pixels / 255, tmp_path / "one.png")
    saved = read(tmp_path / "one.png")
    assert saved.mode == mode
    np.testing.assert_array_equal(np.asarray(saved).reshape(pixels.shape), pixels)


def test_small_images_are_enlarged_to_whole_multiples(tmp_path, pictures):
    plots.plot_images(pictures, columns=5, path=tmp_path / "grid.png")
    grid = plots.image_grid(pictures, columns=5)
    saved = np.asarray(read(tmp_path / "grid.png"))
    factor = saved.shape[0] // grid.shape[0]
    assert factor > 1
    assert saved.shape == (grid.shape[0] * factor, grid.shape[1] * factor, 3)
    np.testing.assert_array_equal(saved[::factor, ::factor], np.round(grid * 255).astype("uint8"))
    np.testing.assert_array_equal(saved[factor - 1 :: factor], saved[::factor])


def test_large_images_keep_their_size(tmp_path):
    plots.plot_images(np.zeros((1, 1200, 300, 3)), path=tmp_path / "large.png")
    margin = 300 // 16
    assert read(tmp_path / "large.png").size == (300 + 2 * margin, 1200 + 2 * margin)


def test_labels_stand_left_of_the_grid(tmp_path):
    plots.plot_images(np.zeros((4, 8, 8, 1)), 2, tmp_path / "plain.png")
    for name, labels in {"short": ["a", "b"], "long": ["a", "a much longer label"]}.items():
        plots.plot_images(np.zeros((4, 8, 8, 1)), 2, tmp_path / f"{name}.png", row_labels=labels)
    plain, short, long = (read(tmp_path / f"{name}.png") for name in ("plain", "short", "long"))
    assert plain.height == pytest.approx(short.height, abs=1)
    assert plain.width < short.width < long.width
    left = np.asarray(long.convert("L"))[:, : long.width - plain.width]
    assert (left < 128).any(), "no text"
    assert (left[:, :5] > 250).all(), "text cut off"


def test_wrong_number_of_labels(pictures):
    with pytest.raises(ValueError, match="3 rows"):
        plots.plot_images(pictures, 2, row_labels=["one"])


def test_a_failed_write_leaves_the_old_picture(tmp_path, pictures, monkeypatch):
    path = tmp_path / "grid.png"
    plots.plot_images(pictures, path=path)
    before = path.read_bytes()

    def fail(self, file, *args, **kwargs):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(PIL.Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.plot_images(1 - pictures, path=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["picture", "picture.xyz"])
def test_unknown_formats_are_refused(tmp_path, pictures, name):
    with pytest.raises(ValueError, match=r"must end in \.png"):
        plots.plot_images(pictures, path=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_other_formats(tmp_path, pictures):
    plots.plot_images(pictures, path=tmp_path / "grid.pdf")
    assert (tmp_path / "grid.pdf").read_bytes().startswith(b"%PDF")


# Samplers and lists of times


class Generator:
    """Stands in for a model: records what it is asked for."""

    def __init__(self):
        self.calls = []
        self.samplers = []

    def generate(self, num_images, diffusion_times, *, sampler, seed, verbose):
        self.calls.append((num_images, diffusion_times, seed))
        self.samplers.append(sampler)
        return np.zeros((num_images, 8, 8, 3), "float32")


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_generations_start_from_one_noise():
    model = Generator()
    plots.plot_generations(model, [5, [1.0, 0.5]], num_images=3, seed=7)
    assert model.calls == [(3, 5, 7), (3, [1.0, 0.5], 7)]


def test_generations_from_random_noise_are_still_from_one():
    model = Generator()
    plots.plot_generations(model, [5, 2], seed=None)
    seeds = {seed for *_, seed in model.calls}
    assert len(seeds) == 1 and seeds != {None}


def test_generations_with_own_labels():
    model = Generator()
    figure = plots.plot_generations(model, {"few": 2, "many": [1.0, 0.9, 0.8]}, num_images=2)
    assert texts(figure) == ["few", "many"]
    assert [times for _, times, _ in model.calls] == [2, [1.0, 0.9, 0.8]]


def test_generations_of_equal_labels_are_all_there():
    figure = plots.plot_generations(Generator(), [[0.33333], [0.33334], 5], num_images=2)
    assert len(figure.texts) == 3


@pytest.mark.parametrize("times", [20, 0.5, None, [], {}, "20"])
def test_generations_need_several_lists(times):
    with pytest.raises(ValueError, match="diffusion_times"):
        plots.plot_generations(Generator(), times)


def test_generations_of_a_model(model, tmp_path):
    plots.plot_generations(model, [1, [1.0, 0.5]], num_images=4, path=tmp_path / "times.png")
    width, height = read(tmp_path / "times.png").size
    assert width > 2 * height


def test_generations_of_samplers():
    model = Generator()
    samplers = ["heun", keras_ddim.DPMSolverPP(order=3)]
    figure = plots.plot_generations(model, [5, [1.0, 0.5]], num_images=2, samplers=samplers)
    assert texts(figure) == [
        "heun, 5 uniform",
        "heun, 1, 0.5",
        "DPMSolverPP(order=3), 5 uniform",
        "DPMSolverPP(order=3), 1, 0.5",
    ]
    assert model.calls == [(2, 5, 0), (2, [1.0, 0.5], 0)] * 2
    assert isinstance(model.samplers[1], keras_ddim.Heun)
    assert model.samplers[2:] == samplers[1:] * 2


def test_generations_of_samplers_with_own_labels():
    samplers = {"second order": "heun", "first": None}
    figure = plots.plot_generations(Generator(), {"few": 2}, num_images=2, samplers=samplers)
    assert texts(figure) == ["second order, few", "first, few"]


@pytest.mark.parametrize("samplers", ["heun", keras_ddim.Heun(), [], {}, ()])
def test_generations_need_several_samplers(samplers):
    with pytest.raises(ValueError, match=r"`samplers` must be a list of .*Received: samplers="):
        plots.plot_generations(Generator(), samplers=samplers)


@pytest.mark.parametrize("samplers", [["ddim", "hein"], {"a": "ddim", "b": "hein"}, ["ddim", 3]])
def test_generations_know_their_samplers_before_the_first_row(samplers):
    model = Generator()
    with pytest.raises(ValueError, match=r"must be .*Received: sampler=('hein'|3)"):
        plots.plot_generations(model, samplers=samplers)
    assert not model.calls


@pytest.mark.parametrize(
    "sampler, label",
    [
        ("dpm++", "dpm++"),
        (None, "DDIM"),
        (keras_ddim.DDIM(), "DDIM"),
        (keras_ddim.DDIM(eta=0.5), "DDIM(eta=0.5)"),
        (keras_ddim.DPMSolverPP(), "DPMSolverPP"),
        (keras_ddim.DPMSolverPP(3, "singlestep"), "DPMSolverPP(order=3, variant=singlestep)"),
        (keras_ddim.AdamsBashforth(2), "AdamsBashforth(order=2)"),
    ],
)
def test_labels_of_samplers_show_what_is_not_default(sampler, label):
    assert plots.sampler_label(sampler) == label


@pytest.mark.parametrize(
    "times, label",
    [
        (5, "5 uniform"),
        ([1.0, 0.8, 0.5, 0.2], "1, 0.8, 0.5, 0.2"),
        (np.array([1 / 3]), "0.333"),
        (np.linspace(1, 0, 21), "1, 0.95, 0.9, …, 0 (21 times)"),
    ],
)
def test_labels_of_times_are_short(times, label):
    assert plots.times_label(times) == label


# Animations


def frames(path):
    """The frames of an animation and how long each is shown, in milliseconds."""
    with PIL.Image.open(path) as image:
        assert image.info["loop"] == 0, "shown only once"
        shown = []
        for index in range(image.n_frames):
            image.seek(index)
            shown.append((np.asarray(image.convert("RGB")), image.info["duration"]))
    return zip(*shown)


def check_animation(model, path, **kwargs):
    """Animates 3 images at 4 times, compares every frame's sides with grids of the images."""
    times = [1.0, 0.7, 0.4, 0.2]
    plots.animate_generation(model, path, times, 3, seed=5, **kwargs)
    trajectory = model.generate(3, times, seed=5, return_trajectory=True, verbose=0)
    noisy_images = model.denormalize(trajectory.noisy_images)
    sides = [*zip(noisy_images, trajectory.pred_images), (trajectory.images, trajectory.images)]
    pixels, durations = frames(path)
    assert len(pixels) == len(times) + 1
    for frame, pair in zip(pixels, sides):
        for side, images in enumerate(pair):
            grid = plots.image_grid(images, kwargs.get("columns"))
            if grid.shape[-1] == 4:
                grid = 1 - grid[..., 3:] + grid[..., 3:] * grid[..., :3]
            factor = frame.shape[0] // grid.shape[0]
            assert factor > 1 and frame.shape[0] == factor * grid.shape[0]
            width = factor * grid.shape[1]
            shown = frame[:, -width:] if side else frame[:, :width]
            np.testing.assert_array_equal(shown[factor - 1 :: factor], shown[::factor])
            # The palette is smaller than the number of colours; the places must be right.
            assert np.abs(shown[::factor, ::factor] / 255.0 - grid).mean() < 0.04
    return durations


def test_animation_shows_noisy_and_predicted_images(trained_model, tmp_path):
    durations = check_animation(
        trained_model, tmp_path / "new" / "flowers.gif", columns=1, seconds=2
    )
    assert durations == (500, 500, 500, 500, 1500)


@pytest.mark.parametrize("channels", [1, 4])
def test_animation_of_grey_and_transparent_images(make_model, tmp_path, channels):
    model = make_model((8, 8, channels))
    model.adapt(np.random.default_rng(0).random((20, 8, 8, channels)))
    check_animation(model, tmp_path / "flowers.gif")


def test_animation_by_another_sampler(trained_model, tmp_path):
    names = "ddim", "ddpm"
    for name in names:
        plots.animate_generation(trained_model, tmp_path / f"{name}.gif", 3, 2, sampler=name)
    assert len({(tmp_path / f"{name}.gif").read_bytes() for name in names}) == 2


def test_animation_pixel_by_pixel(trained_model, tmp_path):
    plots.animate_generation(trained_model, tmp_path / "a.gif", 1, 4, scale=1)
    with PIL.Image.open(tmp_path / "a.gif") as image:
        assert image.size == (2 * 19 + 1, 19)


def test_animation_of_many_times_is_not_faster_than_browsers(trained_model, tmp_path):
    plots.animate_generation(trained_model, tmp_path / "fast.gif", 5, 1, seconds=0.001)
    _, durations = frames(tmp_path / "fast.gif")
    assert durations[:-1] == (20,) * 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"path": "flowers.png"}, r"`path` must end in \.gif. Received: path=flowers.png"),
        ({"num_images": 0}, "num_images=0"),
        ({"columns": 0}, "columns=0"),
        ({"scale": 0}, "Received: scale=0"),
        ({"seconds": 0}, r"`seconds` must be a number in \(0, 600\]. Received: seconds=0"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"seconds": "4"}, "seconds='4'"),
        ({"sampler": "hein"}, "sampler='hein'"),
        ({"diffusion_times": [2.0]}, "diffusion_times"),
    ],
)
def test_animation_refuses(trained_model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        plots.animate_generation(trained_model, **{"path": "flowers.gif", **arguments})
    assert not list(tmp_path.iterdir())


# Curves


def lines(figure):
    """The points of each line in each panel, by its label."""
    return [
        {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        for axes in figure.axes
    ]


def test_history_from_dictionary_file_and_fit(tmp_path):
    losses = {"n_loss": [3.0, 2.0], "i_loss": [5.0, 4.0], "val_n_loss": [3.5, 2.5]}
    expected = [
        {"training": [[1, 3], [2, 2]], "validation": [[1, 3.5], [2, 2.5]]},
        {"training": [[1, 5], [2, 4]]},
    ]
    assert lines(plots.plot_history(losses)) == expected
    fit = types.SimpleNamespace(epoch=[0, 1], history=losses)
    assert lines(plots.plot_history(fit)) == expected
    path = tmp_path / "history.csv"
    path.write_text("epoch,n_loss,i_loss,val_n_loss\n1,3,5,3.5\n2,2,4,2.5\n")
    assert lines(plots.plot_history(path)) == expected
    plots.plot_history(str(path), tmp_path / "history.png")
    assert read(tmp_path / "history.png").size == (900, 350)


def test_history_with_gaps(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,n_loss,val_n_loss\n1,3,\n2,2,1\n")
    ((_, first), (_, second)) = lines(plots.plot_history(path))[0]["validation"]
    assert np.isnan(first) and second == 1


@pytest.mark.parametrize("history", [{"loss": [1.0]}, 3, {}])
def test_history_without_losses(history):
    with pytest.raises(ValueError, match="history"):
        plots.plot_history(history)


def test_missing_history(tmp_path):
    with pytest.raises(FileNotFoundError):
        plots.plot_history(tmp_path / "none.csv")


def test_schedule_curves_are_its_rates(tmp_path):
    schedule = keras_ddim.CosineSchedule()
    left, right = plots.plot_schedule(schedule).axes
    signal, noise = (line.get_ydata() for line in left.get_lines()[:2])
    np.testing.assert_allclose(signal[[0, -1]], [0.95, 0.02], atol=1e-5)
    np.testing.assert_allclose(signal**2 + noise**2, 1.0, atol=1e-5)
    assert (np.diff(right.get_lines()[0].get_ydata()) < 0).all()
    plots.plot_schedule(path=tmp_path / "schedule.png")
    assert read(tmp_path / "schedule.png").width == 900


def test_schedules_of_one_class_are_told_apart():
    figure = plots.plot_schedule(
        [keras_ddim.CosineSchedule(), keras_ddim.CosineSchedule(max_signal_rate=0.99)]
    )
    labels = [line.get_label() for line in figure.axes[1].get_lines()]
    assert len(set(labels)) == 2 and "0.99" in labels[1]


def test_no_schedule():
    with pytest.raises(ValueError, match="schedule"):
        plots.plot_schedule([])


# Showing


def test_figures_show_themselves_in_notebooks(pictures):
    assert plots.plot_images(pictures)._repr_png_().startswith(b"\x89PNG")


def test_show_in_a_notebook(pictures, monkeypatch):
    shown = []
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    figure = plots.plot_images(pictures)
    assert plots.show(figure)
    assert shown == [figure]


def test_show_without_a_display(pictures):
    assert not plots.show(plots.plot_images(pictures))


def test_saving_needs_no_pyplot(tmp_path):
    # Keras imports pyplot by itself where it can: without it, everything must still be written.
    program = f"""
import sys
sys.modules["matplotlib.pyplot"] = None
import numpy as np
from keras_ddim import plots
images = np.zeros((4, 8, 8, 3))
plots.plot_images(images, path={str(tmp_path / "1.png")!r})
plots.plot_images(images, 2, {str(tmp_path / "2.png")!r}, row_labels=["a", "b"])
plots.plot_history({{"n_loss": [2.0, 1.0]}}, {str(tmp_path / "3.png")!r})
plots.plot_schedule(path={str(tmp_path / "4.png")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert len([read(path) for path in tmp_path.glob("*.png")]) == 4
