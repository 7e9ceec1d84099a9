"""The flowers: reproducible, varied, anti-aliased, the same at any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ddim.data import FAMILIES, PLAIN_FAMILIES, draw_flowers


def shrink(images, factor):
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // factor, factor, width // factor, factor, channels)
    return blocks.mean(axis=(2, 4))


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_any_size(num_images, height, width, seed):
    images, labels = draw_flowers(num_images, (height, width), seed, return_labels=True)
    assert images.shape == (num_images, height, width, 3)
    assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
    assert labels.shape == (num_images,)
    assert labels.min() >= 0 and labels.max() < len(FAMILIES)


def test_equal_seeds_draw_equal_images():
    np.testing.assert_array_equal(draw_flowers(20, 16, seed=3), draw_flowers(20, 16, seed=3))
    assert np.abs(draw_flowers(20, 16, seed=3) - draw_flowers(20, 16, seed=4)).mean() > 0.05
    assert np.abs(draw_flowers(20, 16) - draw_flowers(20, 16)).mean() > 0.05


def test_an_image_does_not_depend_on_how_many_follow(monkeypatch):
    many, many_labels = draw_flowers(150, 16, seed=1, return_labels=True)
    few, few_labels = draw_flowers(7, 16, seed=1, return_labels=True)
    np.testing.assert_array_equal(many_labels[:7], few_labels)
    np.testing.assert_allclose(many[:7], few, atol=1e-5)
    # Nor on how many are drawn at once.
    monkeypatch.setattr("keras_ddim.data.flowers._CHUNK_PIXELS", 1)
    np.testing.assert_allclose(draw_flowers(7, 16, seed=1), few, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (48, 24)])
def test_another_size_shows_the_same_flowers(size):
    small, small_labels = draw_flowers(40, size, seed=0, return_labels=True)
    large_size = (4 * size[0], 4 * size[1])
    large, large_labels = draw_flowers(40, large_size, seed=0, return_labels=True)
    np.testing.assert_array_equal(small_labels, large_labels)
    same = np.abs(small - shrink(large, 4)).mean(axis=(1, 2, 3))
    other = np.abs(small - shrink(large, 4)[::-1]).mean(axis=(1, 2, 3))
    assert same.max() < 0.05
    assert same.mean() < 0.1 * other.mean()


def test_families_are_all_drawn_and_can_be_told_apart():
    images, labels = draw_flowers(1200, 16, seed=0, return_labels=True)
    counts = np.bincount(labels, minlength=len(FAMILIES))
    assert len(FAMILIES) == len(set(FAMILIES)) == 8
    assert counts.min() > 100
    # The colours around the middle alone tell much: nearest neighbours, far above chance (1 / 8).
    features = images[:, 4:12, 4:12].reshape(len(images), -1)
    train, test = features[:900], features[900:]
    distances = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
    assert (labels[distances.argmin(1)] == labels[900:]).mean() > 0.3


def test_plain_flowers_are_in_the_middle_of_a_plain_colour():
    images, labels = draw_flowers(300, (16, 24), seed=0, return_labels=True, plain=True)
    assert set(PLAIN_FAMILIES) < set(FAMILIES) and len(PLAIN_FAMILIES) >= 5
    assert np.bincount(labels, minlength=len(PLAIN_FAMILIES)).min() > 20
    sides = images[:, :8, [0, 1, -2, -1]]
    assert sides.std(axis=(1, 2)).max() < 0.01  # nothing but ground, and that in one colour
    # Grounds are of three colours, give or take the little that colours always vary.
    assert len(np.unique(images[:, 0, 0].argsort(axis=1), axis=0)) >= 2
    assert (images[:, 8, 12] - images[:, 0, 0]).std() > 0.1
