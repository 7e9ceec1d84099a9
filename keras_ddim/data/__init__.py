"""Images to train on: built-in flowers, folders, TensorFlow Datasets and arrays, as `tf.data`.

TensorFlow is imported when images are loaded, not before; `draw_flowers` does without it.
"""

from keras_ddim.data.flowers import FAMILIES, PLAIN_FAMILIES, draw_flowers
from keras_ddim.data.loading import load_images

__all__ = ["FAMILIES", "PLAIN_FAMILIES", "draw_flowers", "load_images"]
