"""The metrics: their definitions in SciPy, closed forms, streaming, and their place in training."""

import keras
import numpy as np
import pytest
import scipy.linalg

import keras_ddim
from keras_ddim import metrics
from keras_ddim.metrics import FID, KID, Precision, Recall

KINDS = [
    FID,
    lambda *args, **kwargs: FID(*args, extrapolate=True, **kwargs),
    KID,
    Precision,
    Recall,
]


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


class TestDistances:
    @pytest.mark.parametrize("seed", range(3))
    def test_agree_with_their_definitions(self, seed):
        x, y = random_features(seed=seed)
        assert metrics.frechet_distance(x, y) == pytest.approx(frechet_by_scipy(x, y), rel=1e-6)
        assert metrics.kernel_distance(x, y) == pytest.approx(kernel_by_loops(x, y), rel=1e-6)
        for k in (1, 3):
            assert metrics.covered(x, y, k) == covered_by_loops(x, y, k)

    def test_do_not_depend_on_the_size_of_chunks(self, monkeypatch):
        x, y = random_features()
        whole = metrics.kernel_distance(x, y), metrics.covered(x, y)
        monkeypatch.setattr(metrics, "CHUNK", 7)
        assert metrics.kernel_distance(x, y) == pytest.approx(whole[0], rel=1e-9)
        assert metrics.covered(x, y) == whole[1]

    def test_frechet_distance_of_two_gaussians(self):
        """`|μ − μ'|² + Σ (s − s')²` where the axes are the same; of moments, so exact."""
        one, other = metrics.Moments(), metrics.Moments()
        deviations, other_deviations = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
        for moments, mean, s in ((one, 0.0, deviations), (other, 2.0, other_deviations)):
            moments.count, moments.mean = 101, np.full(3, mean)
            moments.scatter = 100 * np.diag(s**2)
        expected = 3 * 2.0**2 + np.sum((deviations - other_deviations) ** 2)
        assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)

    def test_frechet_distance_of_covariances_that_do_not_commute(self):
        a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.8], [-0.8, 3.0]])
        # Of 2x2 matrices, tr(√M) = √(tr(M) + 2 √det(M)).
        overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
        expected = np.trace(a) + np.trace(b) - 2 * overlap
        one, other = (
            metrics.Moments.of_arrays(
                {"count": 11, "mean": np.zeros(2), "scatter": 10 * covariance}
            )
            for covariance in (a, b)
        )
        assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)

    def test_frechet_distance_with_fewer_points_than_dimensions(self):
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, 5, 20))
        assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
        assert metrics.frechet_distance(x, y) == pytest.approx(
            metrics.frechet_distance(y, x), rel=1e-9
        )

    def test_kernel_distance_of_two_points_each(self):
        """Worked out by hand: one dimension, k(a, b) = (ab + 1)³."""
        x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
        # k(0, 1) + k(1, 2) − 2 mean(k(0, 1), k(0, 2), k(1, 1), k(1, 2))
        assert metrics.kernel_distance(x, y) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)

    def test_kernel_distance_of_shifted_gaussians(self):
        """In one dimension, `E k` of normals of means 0 and m and variance 1 is closed-form."""
        m = 1.5
        # E(ab + 1)³ = E a³ E b³ + 3 E a² E b² + 3 E a E b + 1
        third, second = m**3 + 3 * m, m**2 + 1
        expected = (3 + 1) + (third**2 + 3 * second**2 + 3 * m**2 + 1) - 2 * (3 * second + 1)
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2, 4000, 1)) + np.array([0, m]).reshape(2, 1, 1)
        assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=0.1)

    def test_kernel_distance_is_unbiased(self):
        """Zero on average for clouds of one distribution, but not one by one."""
        rng = np.random.default_rng(0)
        draws = [metrics.kernel_distance(*rng.standard_normal((2, 8, 4))) for _ in range(4000)]
        standard_error = np.std(draws) / np.sqrt(len(draws))
        assert abs(np.mean(draws)) < 3 * standard_error
        # The biased estimate, which counts each point as its own pair, would not pass.
        bias = 2 / 8 * (np.mean([(x @ x / 4 + 1) ** 3 for x in rng.standard_normal((999, 4))]) - 1)
        assert bias > 10 * standard_error

    def test_precision_and_recall_of_clouds_within_one_another(self):
        rng = np.random.default_rng(0)
        wide, narrow = rng.uniform(-1, 1, (400, 2)), rng.uniform(-0.2, 0.2, (400, 2))
        assert metrics.covered(wide, narrow) > 0.9
        assert metrics.covered(narrow, wide) < 0.1
        assert metrics.covered(wide, wide + 10) == 0

    def test_errors(self):
        points = np.zeros((3, 2))
        for distance in (metrics.frechet_distance, metrics.kernel_distance):
            with pytest.raises(ValueError, match=r"at least 2 points.*shape \(1, 2\)"):
                distance(points, points[:1])
        with pytest.raises(ValueError, match=r"at least 4 points.*shape \(3, 2\)"):
            metrics.covered(points, points, neighbors=3)
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            metrics.frechet_distance(points, points[:, 0])


class TestMetrics:
    @pytest.mark.parametrize("make", KINDS)
    def test_batches_of_any_sizes_give_one_result(self, make):
        rng = np.random.default_rng(0)
        real, generated = rng.random((50, 4, 4, 1)), rng.random((40, 4, 4, 1)) ** 2
        one, many = make(flatten), make(flatten)
        one.update_state(real, generated)
        for start, stop in ((0, 1), (1, 18), (18, 50)):
            many.update_state(real[start:stop], None)
        for start, stop in ((0, 31), (31, 40)):
            many.update_state(None, generated[start:stop])
        assert many.result() == pytest.approx(one.result(), rel=1e-6)
        one.reset_state()
        with pytest.raises(ValueError, match="needs at least"):
            one.result()

    def test_results_are_the_distances_of_features(self):
        rng = np.random.default_rng(0)
        real, generated = rng.random((30, 4, 4, 1), "float32"), rng.random((25, 4, 4, 1), "float32")
        x, y = flatten(real).astype("float64"), flatten(generated).astype("float64")
        for metric, expected in (
            (FID(flatten), frechet_by_scipy(x, y)),
            (KID(flatten, num_subsets=1), kernel_by_loops(x, y)),
            (Precision(flatten), covered_by_loops(x, y, 3)),
            (Recall(flatten), covered_by_loops(y, x, 3)),
        ):
            assert metric(real, generated) == pytest.approx(expected, rel=1e-6)

    def test_moments_do_not_grow_and_keep_their_digits(self):
        """Far from zero, where squares minus the square of the mean would have none left."""
        rng = np.random.default_rng(0)
        points = 1e6 + rng.standard_normal((1000, 3))
        moments = metrics.Moments()
        for batch in np.array_split(points, 37):
            moments.add(batch)
            assert np.shape(moments.scatter) == (3, 3)
        np.testing.assert_allclose(moments.covariance, np.cov(points, rowvar=False), rtol=1e-6)
        np.testing.assert_allclose(moments.mean, points.mean(axis=0), rtol=1e-12)

    def test_fid_extrapolates_to_infinitely_many_images(self):
        """The distance of clouds of one distribution is 0, but not for finitely many points."""
        rng = np.random.default_rng(0)
        plain, extrapolated = FID(flatten), FID(flatten, extrapolate=True)
        real, generated = rng.standard_normal((5000, 16)), rng.standard_normal((1000, 16))
        for metric in (plain, extrapolated):
            metric.add_real(real)
            metric.add_generated(generated)
        assert plain.result() > 0.05
        assert abs(extrapolated.result()) < 0.4 * plain.result()

    def test_kid_and_its_standard_error_over_draws(self):
        """The spread of many results is what each of them says of itself."""
        rng = np.random.default_rng(0)
        results, errors = [], []
        for _ in range(300):
            kid = KID(flatten)
            kid.add_real(rng.standard_normal((60, 4)))
            kid.add_generated(rng.standard_normal((60, 4)))
            results.append(kid.result())
            errors.append(kid.standard_error())
        assert abs(np.mean(results)) < 3 * np.std(results) / np.sqrt(len(results))
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(results), rel=0.2)

    def test_kid_of_few_images(self):
        kid = KID(flatten, num_subsets=10)
        kid.update_state(np.zeros((3, 4, 4, 1)), np.ones((5, 4, 4, 1)))
        assert len(kid.subset_distances()) == 1
        assert kid.result() > 0 and kid.standard_error() is None

    @pytest.mark.parametrize("make", KINDS)
    def test_a_reference_stands_for_real_images(self, make, tmp_path):
        rng = np.random.default_rng(0)
        real, generated = rng.random((50, 4, 4, 1)), rng.random((40, 4, 4, 1)) ** 2
        metric = make(flatten)
        expected = metric(real, generated)
        metric.save_reference(tmp_path / "real.npz")
        again = make(flatten, reference=tmp_path / "real.npz")
        again.update_state(rng.random((9, 4, 4, 1)), generated)  # real ones left out of account
        assert again.result() == pytest.approx(expected, rel=1e-12)
        again.reset_state()
        again.update_state(None, generated)
        assert again.result() == pytest.approx(expected, rel=1e-12)

    def test_errors(self, tmp_path):
        images = np.zeros((5, 4, 4, 1))
        with pytest.raises(ValueError, match=r"needs at least 2 generated images. Received: 0"):
            metric = FID(flatten)
            metric.update_state(images, None)
            metric.result()
        with pytest.raises(ValueError, match=r"needs at least 4 real images. Received: 3"):
            Precision(flatten)(images[:3], images)
        with pytest.raises(ValueError, match="values from 7 to 7"):
            KID(flatten).update_state(images, images + 7)
        with pytest.raises(ValueError, match=r"Received: images of shape \(4, 4, 1\)"):
            KID(flatten).update_state(images[0], images)
        with pytest.raises(ValueError, match=r"shape \(5, 4, 4, 1\) for 5 images"):
            KID(lambda images: images).update_state(images, images)
        with pytest.raises(ValueError, match="must make finite features"):
            KID(lambda images: flatten(images) / np.float32(0)).update_state(images + 1, images)
        with pytest.raises(ValueError, match=r"Received: encoder='vgg'"):
            KID("vgg")
        with pytest.raises(ValueError, match=r"equally many features.*Received: 16 and 4"):
            KID(flatten)(images, images[:, :2, :2])
        with pytest.raises(ValueError, match=r"`num_subsets`.*Received: num_subsets=0"):
            KID(flatten, num_subsets=0)
        with pytest.raises(ValueError, match=r"`reference`.*missing.npz"):
            FID(flatten, reference=tmp_path / "missing.npz")
        metric.save_reference(tmp_path / "real.npz")
        with pytest.raises(ValueError, match="of the same encoder"):
            FID(lambda images: flatten(images), reference=tmp_path / "real.npz")
        with pytest.raises(ValueError, match=r"must end in .npz"):
            metric.save_reference(tmp_path / "real.csv")
        assert {path.name for path in tmp_path.iterdir()} == {"real.npz"}

    def test_config(self):
        for metric in (FID(extrapolate=True, name="a"), KID(num_subsets=3), Recall(neighbors=5)):
            again = type(metric).from_config(metric.get_config())
            assert again.get_config() == metric.get_config()


class TestTraining:
    """`compile(image_metrics=...)`."""

    def test_logs(self, make_model, images, tmp_path):
        model = make_model()
        model.compile(
            run_eagerly=True,
            image_metrics=[KID(flatten), FID(flatten, name="distance")],
            image_metrics_times=2,
        )
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_kid", mode="min", save_best_only=True
        )
        stop = keras.callbacks.EarlyStopping(monitor="val_distance", mode="min", patience=5)
        validation = keras_ddim.load_images(images, 8, validation_split=0, shuffle=False)[0]
        history = model.fit(
            images, validation_data=validation, epochs=2, verbose=0, callbacks=[best, stop]
        ).history
        assert len(history["val_kid"]) == len(history["val_distance"]) == 2
        assert "kid" not in history
        assert (tmp_path / "best.keras").exists()
        # What the logs said, from the parts.
        generated = model.generate(len(images), 2, seed=0)
        expected = frechet_by_scipy(*map(flatten, (images.astype("float64"), generated)))
        assert history["val_distance"][-1] == pytest.approx(expected, rel=1e-3)

    def test_evaluate(self, model, images):
        model.compile(run_eagerly=True)
        losses = model.evaluate(images, verbose=0)
        model.compile(
            run_eagerly=True, image_metrics=[KID(flatten)], image_metrics_times=[1.0, 0.5]
        )
        logs = model.evaluate(images, verbose=0, return_dict=True)
        assert set(logs) == {"loss", "n_loss", "i_loss", "kid"}
        values = model.evaluate(images, verbose=0)
        assert len(values) == len(losses) + 1 and values[-1] == logs["kid"]

    def test_costs_nothing_when_not_asked_for(self, model, images, monkeypatch):
        monkeypatch.setattr(model, "generate", lambda *args, **kwargs: pytest.fail("generated"))
        model.compile(run_eagerly=True)
        model.evaluate(images, verbose=0)

    def test_steps_bound_the_images(self, model, images):
        class Counter(KID):
            def add_real(self, features):
                super().add_real(features)
                counted.append(self.real.count)

        counted = []
        model.compile(run_eagerly=True, image_metrics=[Counter(flatten)], image_metrics_times=1)
        model.evaluate(images, batch_size=4, steps=3, verbose=0)
        assert counted == [4, 8, 12]

    def test_a_reference_spares_encoding_real_images(self, model, images, tmp_path):
        kid = KID(flatten)
        kid.update_state(images, None)
        kid.save_reference(tmp_path / "real.npz")
        encoded = []

        def flatten_and_count(batch):
            encoded.append(len(batch))
            return flatten(batch)

        flatten_and_count.__qualname__ = flatten.__qualname__
        monitored = KID(flatten_and_count, reference=tmp_path / "real.npz")
        model.compile(run_eagerly=True, image_metrics=[monitored], image_metrics_times=1)
        model.evaluate(images, verbose=0)
        assert encoded == [len(images)]  # the generated ones

    def test_saved_models_do_not_hold_metrics(self, model, images, tmp_path):
        model.compile(run_eagerly=True, image_metrics=[KID(flatten)])
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert set(loaded.evaluate(images, verbose=0, return_dict=True)) == {
            *("loss", "n_loss", "i_loss")
        }

    def test_errors(self, model, images):
        with pytest.raises(ValueError, match=r"`image_metrics` must be a list.*Received"):
            model.compile(image_metrics=KID(flatten))
        with pytest.raises(ValueError, match=r"`image_metrics` must be a list.*Received"):
            model.compile(image_metrics=["kid"])
        with pytest.raises(ValueError, match="a `name` of its own"):
            model.compile(image_metrics=[KID(flatten), KID(flatten)])
        with pytest.raises(ValueError, match="`diffusion_times`"):
            model.compile(image_metrics=[KID(flatten)], image_metrics_times=0)
        model.compile(image_metrics=[KID(flatten)])
        generator = (batch for batch in [images])
        with pytest.raises(ValueError, match=r"Received: x=<generator"):
            model.evaluate(generator, verbose=0)
        with pytest.raises(ValueError, match=r"Received: validation_data=<generator"):
            model.fit(images, validation_data=generator, validation_steps=1, verbose=0)
        model.compile(metrics=[KID(flatten)])
        with pytest.raises(ValueError, match="not of `metrics`"):
            model.evaluate(images, verbose=0)
