"""Images to train on: built-in flowers, folders, TensorFlow Datasets and arrays, as `tf.data`.

TensorFlow is imported once images are loaded; `draw_flowers` and `read_image` work without it.
"""

from keras_ddim.data.flowers import FAMILIES, PLAIN_FAMILIES, draw_flowers
from keras_ddim.data.loading import load_images, read_image

__all__ = ["FAMILIES", "PLAIN_FAMILIES", "draw_flowers", "load_images", "read_image"]
