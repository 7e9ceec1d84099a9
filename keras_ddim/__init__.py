"""Diffusion models for Keras: train once, generate along any list of diffusion times."""

import os

from keras_ddim import interrupts

if interrupts.is_command():  # now, for the imports take seconds
    interrupts.end_by_them()

# TensorFlow leaves oneDNN off on processors without AVX-512, where training then takes up to twice
# as long. It only looks when it is imported, so import this package before TensorFlow and Keras.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_ddim import (
    callbacks,
    conditioning,
    degradations,
    denoisers,
    editing,
    encoders,
    guidance,
    metrics,
    noise_levels,
    optimal_times,
    plots,
    presets,
    recipes,
    samplers,
    sampling,
    schedules,
    times,
)
from keras_ddim.data import draw_flowers, load_images
from keras_ddim.denoisers import GaussianDenoiser
from keras_ddim.editing import interpolate
from keras_ddim.metrics import FID, KID
from keras_ddim.model import DiffusionModel
from keras_ddim.networks import ModulatedUNet, ResidualUNet, SinusoidalEmbedding
from keras_ddim.normalizer import Normalizer
from keras_ddim.optimal_times import explain_times, optimize_times
from keras_ddim.recipes import recipe
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
from keras_ddim.sampling import Trajectory
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
    "GaussianDenoiser",
    "Heun",
    "ModulatedUNet",
    "Normalizer",
    "ResidualUNet",
    "Sampler",
    "Schedule",
    "SinusoidalEmbedding",
    "Trajectory",
    "UniPC",
    "callbacks",
    "conditioning",
    "degradations",
    "denoisers",
    "draw_flowers",
    "editing",
    "encoders",
    "explain_times",
    "guidance",
    "interpolate",
    "load_images",
    "metrics",
    "noise_levels",
    "optimal_times",
    "optimize_times",
    "plots",
    "presets",
    "recipe",
    "recipes",
    "samplers",
    "sampling",
    "schedules",
    "times",
]
