"""The metrics: their definitions in SciPy, closed forms, streaming, and their place in training."""

import keras
import numpy as np
import pytest
import scipy.linalg

import keras_ddim
from keras_ddim import metrics
from keras_ddim.metrics import FID, KID, Precision, Recall

KINDS = [FID, KID, Precision, Recall]


def flatten(images):
    """An encoder without weights."""
    return np.asarray(images).reshape(len(images), -1)


def random_features(num_points=(60, 75), dimensions=6, seed=0):
    """Two clouds of correlated points of different mean."""
    rng = np.random.default_rng(seed)
    return tuple(
        shift + rng.standard_normal((n, dimensions)) @ rng.standard_normal((dimensions,) * 2)
        for n, shift in zip(num_points, (0.0, 0.5))
    )


def measured(metric, real, generated):
    metric.update_state(real, generated)
    return metric.result()


# The definitions, written another way


def frechet_by_scipy(x, y):
    c, d = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c @ d).real
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(c + d - 2 * root)


def kernel_by_loops(x, y):
    def k(a, b):
        return (np.dot(a, b) / len(a) + 1) ** 3

    within = [
        np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
        for z in (x, y)
    ]
    return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])


def covered_by_loops(x, y, k):
    radii = [sorted(np.linalg.norm(x - a, axis=1))[k] for a in x]
    return np.mean([any(np.linalg.norm(a - b) <= r for a, r in zip(x, radii)) for b in y])


class TestFrechetDistance:
    """Tolerances: singular values are exact to the rounding error of the largest, so that errors
    are at most about 1e-16 times the dimensions (40 here) times the traces. The distances are at
    least a tenth of the traces, so 1e-12 relative leaves a margin of 25 for other roundings."""

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_its_definition(self, seed):
        x, y = random_features(seed=seed)
        # The square root of a product, in SciPy, is the less exact one.
        assert metrics.frechet_distance(x, y) == pytest.approx(frechet_by_scipy(x, y), rel=1e-9)

    def test_two_points_each_in_many_dimensions(self):
        """`|μ − μ'|² + a² + b² − 2 |a·b|`, where a and b are the differences by √2."""
        x, y = np.random.default_rng(0).standard_normal((2, 2, 30))
        a, b = (x[0] - x[1]) / np.sqrt(2), (y[0] - y[1]) / np.sqrt(2)
        expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + a @ a + b @ b - 2 * abs(a @ b)
        assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("num_points", [5, 19, 21, 300])
    def test_is_symmetric_and_zero_for_the_same_points(self, num_points):
        """Also of few points; isometries into more dimensions change nothing."""
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, num_points, 20))
        assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-12 * 2 * 20)
        distance = pytest.approx(metrics.frechet_distance(x, y), rel=1e-12)
        assert metrics.frechet_distance(y, x) == distance
        isometry, _ = np.linalg.qr(rng.standard_normal((40, 20)))
        assert metrics.frechet_distance(x @ isometry.T, y @ isometry.T) == distance

    def test_moments_do_not_grow_and_keep_their_digits(self):
        """Far from zero, where squares minus the square of the mean would have none left."""
        rng = np.random.default_rng(0)
        points = 1e6 + rng.standard_normal((1000, 3)) * [1.0, 1e-3, 10.0]
        moments = metrics.Moments()
        for batch in np.array_split(points, 37):
            moments.extend(batch)
            assert len(moments.root) <= 3
        assert len(moments) == 1000
        np.testing.assert_allclose(
            moments.root.T @ moments.root, np.cov(points, rowvar=False), rtol=1e-6
        )
        np.testing.assert_allclose(moments.mean, points.mean(axis=0), rtol=1e-12)

    @pytest.mark.parametrize("sizes", [[1] * 12, [1, 11], [5, 7], [2, 4, 6]])
    def test_moments_do_not_depend_on_batches(self, sizes):
        x, y = np.random.default_rng(0).standard_normal((2, 12, 4))
        moments = metrics.Moments(*np.split(x, np.cumsum(sizes)[:-1]))
        expected = metrics.frechet_distance(x, y)
        assert metrics.frechet_distance(moments, y) == pytest.approx(expected, rel=1e-12)


class TestOtherDistances:
    @pytest.mark.parametrize("seed", range(3))
    def test_agree_with_their_definitions(self, seed):
        x, y = random_features(seed=seed)
        assert metrics.kernel_distance(x, y) == pytest.approx(kernel_by_loops(x, y), rel=1e-9)
        for k in (1, 3):
            assert metrics.covered(x, y, k) == covered_by_loops(x, y, k)

    def test_do_not_depend_on_the_size_of_chunks(self, monkeypatch):
        x, y = random_features()
        whole = metrics.kernel_distance(x, y), metrics.covered(x, y)
        monkeypatch.setattr(metrics, "CHUNK", 7)
        assert metrics.kernel_distance(x, y) == pytest.approx(whole[0], rel=1e-9)
        assert metrics.covered(x, y) == whole[1]

    def test_errors(self):
        points = np.zeros((3, 2))
        for distance in (metrics.frechet_distance, metrics.kernel_distance):
            with pytest.raises(ValueError, match=r"at least 2 points.*shape \(1, 2\)"):
                distance(points, points[:1])
            with pytest.raises(ValueError, match="points of 2 dimensions"):
                distance(points, points[:, :1])
        with pytest.raises(ValueError, match=r"at least 4 points.*shape \(3, 2\)"):
            metrics.covered(points, points, neighbors=3)


class TestMetrics:
    @pytest.mark.parametrize("kind", KINDS)
    def test_batches_of_any_sizes_give_one_result(self, kind):
        real, generated, others = np.random.default_rng(0).random((3, 40, 4, 4, 1))
        metric = kind(flatten)
        metric.update_state(real[:1])
        metric.update_state(real[1:18], generated[:31] ** 2)
        metric.update_state(real[18:], generated[31:] ** 2)
        assert metric.result() == pytest.approx(measured(kind(flatten), real, generated**2), 1e-6)
        metric.reset_state(keep_real=True)
        expected = measured(kind(flatten), real, others)
        assert measured(metric, None, others) == pytest.approx(expected, 1e-6)
        metric.reset_state()
        with pytest.raises(ValueError, match="at least 2 images for"):
            metric.result()

    def test_results_are_the_distances_of_features(self):
        rng = np.random.default_rng(0)
        real, generated = rng.random((30, 4, 4, 1), "float32"), rng.random((25, 4, 4, 1), "float32")
        x, y = flatten(real).astype("float64"), flatten(generated).astype("float64")
        for metric, expected in (
            (FID(flatten), frechet_by_scipy(x, y)),
            (KID(flatten, num_subsets=1), kernel_by_loops(x, y)),
            (Precision(flatten), covered_by_loops(x, y, 3)),
            (Recall(flatten, neighbors=2), covered_by_loops(y, x, 2)),
        ):
            assert measured(metric, real, generated) == pytest.approx(expected, rel=1e-6)

    def test_images_are_encoded_once_for_each_encoder(self):
        encoded = []

        def recorder(images):
            encoded.append(len(images))
            return flatten(images)

        images = np.random.default_rng(0).random((5, 4, 4, 1))
        fid, kid, other = FID(recorder), KID(recorder), KID(flatten)
        metrics.update([fid, kid, other], images, images[:4] / 2)
        assert encoded == [5, 4]
        for metric in (fid, kid, other):
            alone = type(metric)(flatten)
            assert metric.result() == measured(alone, images, images[:4] / 2)
        assert FID().encoder is KID("inception_v3").encoder

    def test_kid_and_its_standard_error_over_draws(self):
        """The spread of many results is the standard error that each of them states."""
        rng = np.random.default_rng(0)
        results, errors = [], []
        for _ in range(300):
            kid = KID(lambda images: 12 * flatten(images))
            kid.update_state(*rng.random((2, 60, 2, 2, 1)))
            results.append(kid.result())
            errors.append(kid.standard_error())
        assert abs(np.mean(results)) < 3 * np.std(results) / np.sqrt(len(results))
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(results), rel=0.2)

    def test_kid_of_few_images(self):
        """Three real ones make a single part, of which there is no spread."""
        rng = np.random.default_rng(0)
        real, generated = rng.random((3, 4, 4, 1)), rng.random((5, 4, 4, 1))
        kid = KID(flatten, num_subsets=10)
        expected = metrics.kernel_distance(
            flatten(real.astype("float32")), flatten(generated.astype("float32"))
        )
        assert measured(kid, real, generated) == pytest.approx(expected, rel=1e-6)
        assert kid.standard_error() is None

    def test_errors(self):
        images = np.zeros((5, 4, 4, 1))
        with pytest.raises(
            ValueError, match="`generated_images` must be at least 2 images for fid, got 0"
        ):
            measured(FID(flatten), images, None)
        with pytest.raises(ValueError, match="at least 4 points"):
            measured(Precision(flatten), images[:3], images)
        with pytest.raises(ValueError, match="values from 7 to 7"):
            KID(flatten).update_state(images, images + 7)
        with pytest.raises(ValueError, match=r"`num_subsets`.* got 0"):
            KID(flatten, num_subsets=0)
        with pytest.raises(ValueError, match=r"`neighbors`.* got 0"):
            Recall(flatten, neighbors=0)


class TestImageMetrics:
    """The callback."""

    def fit(self, model, images, *callbacks, epochs=2, **kwargs):
        return model.fit(images, epochs=epochs, verbose=0, callbacks=callbacks, **kwargs).history

    @pytest.mark.parametrize("labelled", [False, True])
    def test_logs_are_seen_by_the_callbacks_after_it(self, make_model, images, tmp_path, labelled):
        data = (images, np.zeros(len(images), int)) if labelled else images
        model = make_model()
        real, _ = keras_ddim.load_images(
            data, 8, batch_size=16, validation_split=0, shuffle=False, labels=labelled
        )
        measure = keras_ddim.callbacks.ImageMetrics(
            [KID(flatten), FID(flatten, name="distance")], real, diffusion_times=2
        )
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_kid", mode="min", save_best_only=True
        )
        # No epoch improves by that much: it stops after the second.
        stop = keras.callbacks.EarlyStopping("val_distance", min_delta=1e9, mode="min", patience=1)
        save = keras_ddim.callbacks.SaveHistory(tmp_path / "history.csv")
        history = self.fit(model, images, measure, best, stop, save, epochs=5)
        assert len(history["val_kid"]) == len(history["val_distance"]) == 2
        assert (tmp_path / "best.keras").exists()
        assert "val_kid" in (tmp_path / "history.csv").read_text()
        # What the logs said, from the parts.
        generated = model.generate(len(images), 2, seed=0)
        expected = frechet_by_scipy(*map(flatten, (images.astype("float64"), generated)))
        assert history["val_distance"][-1] == pytest.approx(expected, rel=1e-3)

    def test_encodes_real_images_once_and_measures_each_so_many_epochs(self, make_model, images):
        encoded = []

        def recorder(batch):
            encoded.append(len(batch))
            return flatten(batch)

        measure = keras_ddim.callbacks.ImageMetrics(
            [KID(recorder), Recall(recorder)],
            images,
            num_images=6,
            every=2,
            diffusion_times=1,
        )
        history = self.fit(make_model(), images[:8], measure, epochs=5)
        assert encoded == [len(images), 6, 6]
        assert len(history["val_kid"]) == len(history["val_recall"]) == 2

    def test_errors(self, images):
        callback = keras_ddim.callbacks.ImageMetrics
        for wrong in (KID(flatten), ["kid"], [], [KID(flatten), KID(flatten)]):
            with pytest.raises(ValueError, match="`metrics` must be "):
                callback(wrong, images)
        with pytest.raises(ValueError, match=r"`every` must be .* got 0"):
            callback([KID(flatten)], images, every=0)
