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
    grid = plots.image_grid(images, columns=2)
    assert grid.shape == (3 * 7 + 1, 2 * 5 + 1, channels)
    np.testing.assert_array_equal(grid[1:7, 1:5], images[0])
    np.testing.assert_array_equal(grid[1:7, 6:10], images[1])
    np.testing.assert_array_equal(grid[15:21, 1:5], images[4])
    background = [1.0, 1.0, 1.0, 0.0] if channels == 4 else [1.0] * channels
    np.testing.assert_array_equal(grid[0, 0], background)
    np.testing.assert_array_equal(grid[15, 6], background)  # the empty cell


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (2, (1, 2)), (10, (3, 4)), (16, (4, 4))])
def test_grid_is_as_square_as_it_gets(count, shape):
    grid = plots.image_grid(np.zeros((count, 8, 8, 1)))
    assert grid.shape == (9 * shape[0] + 1, 9 * shape[1] + 1, 1)


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


def test_labels_stand_left_of_the_grid(tmp_path):
    plots.plot_images(np.zeros((4, 8, 8, 1)), 2, tmp_path / "plain.png")
    for name, labels in {"short": ["a", "b"], "long": ["a", "a much longer label"]}.items():
        plots.plot_images(np.zeros((4, 8, 8, 1)), 2, tmp_path / f"{name}.png", row_labels=labels)
    plain, short, long = (read(tmp_path / f"{name}.png") for name in ("plain", "short", "long"))
    assert plain.height < short.height == long.height < plain.height + 25  # some white around it
    assert plain.width < short.width < long.width
    left = np.asarray(long.convert("L"))[:, : long.width - plain.width - 15]
    assert (left < 128).any(), "no text"
    assert (left[:, :5] > 250).all(), "text cut off"


def test_wrong_number_of_labels(pictures):
    with pytest.raises(ValueError, match="one string for each row, 3"):
        plots.plot_images(pictures, 2, row_labels=["one"])


def test_formats(tmp_path, pictures):
    with pytest.raises(ValueError, match=r"ends in \.png"):
        plots.plot_images(pictures, path=tmp_path / "picture.xyz")
    plots.plot_images(pictures, path=tmp_path / "grid.pdf")
    assert (tmp_path / "grid.pdf").read_bytes().startswith(b"%PDF")


# Rows


def row_labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_rows_have_their_labels_and_images(pictures):
    rows = {"few": pictures[:2], "many": np.round(255 * pictures[2:4]).astype("uint8")}
    figure = plots.plot_rows(rows)
    assert row_labels(figure) == ["few", "many"]
    grid = plots.image_grid(pictures[:4], columns=2)
    drawn = figure.axes[0].get_images()[0].get_array()
    factor = drawn.shape[0] // grid.shape[0]
    np.testing.assert_allclose(drawn[::factor, ::factor], grid, atol=1 / 255)


@pytest.mark.parametrize("shapes", [[], [(2, 4, 4, 3), (3, 4, 4, 3)]])
def test_rows_must_be_alike(shapes):
    with pytest.raises(ValueError, match="`rows` must be a dictionary of images of one shape"):
        plots.plot_rows({label: np.zeros(shape) for label, shape in zip("ab", shapes)})


@pytest.mark.parametrize(
    "times, label",
    [
        (5, "5 times"),
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


def check_animation(channels, path, **kwargs):
    """Animates 3 images in 4 steps, compares every frame's sides with grids of the images."""
    noisy_images, pred_images = np.random.default_rng(0).random((2, 4, 3, 8, 8, channels))
    plots.animate(noisy_images, pred_images, path, **kwargs)
    sides = [*zip(noisy_images, pred_images), (pred_images[-1], pred_images[-1])]
    pixels, durations = frames(path)
    assert len(pixels) == 5
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


def test_animation_shows_noisy_and_predicted_images(tmp_path):
    durations = check_animation(3, tmp_path / "new" / "flowers.gif", columns=1, seconds=2)
    assert durations == (500, 500, 500, 500, 1500)


@pytest.mark.parametrize("channels", [1, 4])
def test_animation_of_grey_and_transparent_images(tmp_path, channels):
    check_animation(channels, tmp_path / "flowers.gif")


def test_animation_of_many_steps_is_not_faster_than_browsers(tmp_path):
    images = np.random.default_rng(0).random((2, 5, 4, 8, 8, 3))
    plots.animate(*images, tmp_path / "fast.gif", seconds=0.001, scale=1)
    pixels, durations = frames(tmp_path / "fast.gif")
    assert durations[:-1] == (20,) * 5
    assert pixels[0].shape[:2] == (19, 2 * 19 + 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"path": "flowers.png"}, r"`path` must be a path that ends in \.gif"),
        ({"scale": 0}, "`scale`.* got 0"),
        ({"seconds": 0}, "`seconds` must be .* above 0, got 0"),
        ({"noisy_images": np.zeros((3, 1, 8, 8, 3))}, "of the shape of `noisy_images`"),
        (dict.fromkeys(("noisy_images", "pred_images"), np.zeros((0, 1, 8, 8, 3))), "steps of"),
    ],
)
def test_animation_refuses(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    images = dict.fromkeys(("noisy_images", "pred_images"), np.zeros((2, 1, 8, 8, 3)))
    with pytest.raises(ValueError, match=message):
        plots.animate(**{**images, "path": "flowers.gif", **arguments})
    assert not list(tmp_path.iterdir())


def test_animation_of_a_walk(tmp_path):
    walk = np.linspace(0, 1, 5).reshape(5, 1, 1, 1) * np.ones((5, 8, 8, 3))
    plots.animate_walk(walk, tmp_path / "walk.gif", scale=2, seconds=0.8)
    pixels, durations = frames(tmp_path / "walk.gif")
    assert durations == (100,) * 8 and pixels[0].shape[:2] == (20, 20)  # there and back
    several = np.repeat(walk[:, None], 3, axis=1)
    plots.animate_walk(several, tmp_path / "several.gif", scale=1, columns=3)
    assert read(tmp_path / "several.gif").size == (28, 10)
    with pytest.raises(ValueError, match="`images` must be at least two steps"):
        plots.animate_walk(walk[:1], tmp_path / "no.gif")


# Curves


def lines(figure):
    """The points of each line in each panel, by its label."""
    return [
        {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        for axes in figure.axes
    ]


def test_history_from_file_and_fit(tmp_path):
    losses = {"n_loss": [3.0, 2.0], "i_loss": [5.0, 4.0], "val_n_loss": [3.5, 2.5]}
    expected = [
        {"training": [[1, 3], [2, 2]], "validation": [[1, 3.5], [2, 2.5]]},
        {"training": [[1, 5], [2, 4]]},
    ]
    fit = types.SimpleNamespace(epoch=[0, 1], history=losses)
    assert lines(plots.plot_history(fit)) == expected
    path = tmp_path / "history.csv"
    path.write_text("epoch,n_loss,i_loss,val_n_loss\n1,3,5,3.5\n2,2,4,2.5\n")
    assert lines(plots.plot_history(path)) == expected
    plots.plot_history(str(path), tmp_path / "history.png")
    assert read(tmp_path / "history.png").size == (900, 350)


def test_history_without_losses(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,3\n")
    with pytest.raises(
        ValueError, match=r"a history of `n_loss` or `i_loss`, got \['epoch', 'loss'"
    ):
        plots.plot_history(tmp_path / "history.csv")
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


def test_schedules_are_labelled_with_their_arguments():
    schedules = [keras_ddim.CosineSchedule(), keras_ddim.CosineSchedule(max_signal_rate=0.99)]
    _, right = plots.plot_schedule(schedules).axes
    labels = [line.get_label() for line in right.get_lines()]
    assert labels == [repr(schedule) for schedule in schedules]
    with pytest.raises(ValueError, match="schedule"):
        plots.plot_schedule([])


def test_lists_of_times_stand_on_the_curve(tmp_path):
    schedule = keras_ddim.CosineSchedule()
    lists = {"uniform": [1.0, 0.5], "mine": [1.0, 0.8, 0.1]}
    errors = {"mine": [0.1, 0.4, 0.2]}
    left, right = plots.plot_times(lists, schedule, errors=errors).axes
    for points, times in zip(left.get_lines()[1:], lists.values()):
        np.testing.assert_allclose(points.get_xdata(), times)
        expected = schedule.log_snr(np.float32(times))
        np.testing.assert_allclose(points.get_ydata(), expected, atol=1e-5)
    bars = [line for line in right.get_lines() if line.get_linestyle() == "-"]
    widths = [line.get_linewidth() for line in bars]
    assert len(bars) == 3 and np.argsort(widths).tolist() == [0, 2, 1]
    assert bars[-1].get_xdata()[1] == pytest.approx(schedule.ends[0], abs=1e-4)
    plots.plot_times(lists, "linear_beta", tmp_path / "times.png")
    assert read(tmp_path / "times.png").size[0] > 800


@pytest.mark.parametrize(
    ("lists", "errors"),
    [({}, None), ({"a": [1.0, 0.5]}, {"a": [1.0]}), ({"a": [1.0]}, {"b": [1.0]})],
)
def test_lists_of_times_that_cannot_be_drawn(lists, errors):
    with pytest.raises(ValueError, match="must"):
        plots.plot_times(lists, errors=errors)


# Without pyplot


def test_saving_needs_no_pyplot(tmp_path, monkeypatch, pictures):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    plots.plot_images(pictures, path=tmp_path / "1.png")
    plots.plot_rows({"a": pictures, "b": pictures}, tmp_path / "2.png")
    plots.plot_schedule(path=tmp_path / "3.png")
    assert len([read(path) for path in tmp_path.glob("*.png")]) == 3
