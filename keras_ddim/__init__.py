"""Diffusion models for Keras: train once, generate along any list of diffusion times."""

from keras_ddim.model import DiffusionModel
from keras_ddim.networks import SinusoidalEmbedding, residual_unet
from keras_ddim.samplers import DDIM, Sampler
from keras_ddim.schedules import CosineSchedule, Schedule

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "CosineSchedule",
    "DiffusionModel",
    "Sampler",
    "Schedule",
    "SinusoidalEmbedding",
    "residual_unet",
]
