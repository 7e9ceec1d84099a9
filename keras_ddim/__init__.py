"""Diffusion models for Keras: train once, generate along any list of diffusion times."""

from keras_ddim import (
    callbacks,
    conditioning,
    encoders,
    metrics,
    noise_levels,
    plots,
    samplers,
    schedules,
    times,
)
from keras_ddim.data import load_images
from keras_ddim.flowers import draw_flowers
from keras_ddim.metrics import FID, KID
from keras_ddim.model import DiffusionModel, Trajectory
from keras_ddim.networks import SinusoidalEmbedding, residual_unet
from keras_ddim.samplers import (
    DDIM,
    DDPM,
    AdamsBashforth,
    DPMSolverPP,
    Euler,
    Heun,
    Sampler,
    UniPC,
)
from keras_ddim.schedules import CosineSchedule, Schedule

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "FID",
    "KID",
    "AdamsBashforth",
    "CosineSchedule",
    "DPMSolverPP",
    "DiffusionModel",
    "Euler",
    "Heun",
    "Sampler",
    "Schedule",
    "SinusoidalEmbedding",
    "Trajectory",
    "UniPC",
    "callbacks",
    "conditioning",
    "draw_flowers",
    "encoders",
    "load_images",
    "metrics",
    "noise_levels",
    "plots",
    "residual_unet",
    "samplers",
    "schedules",
    "times",
]
