"""Diffusion models for Keras: train once, then choose schedule, sampler and steps to generate."""

import os
import sys

# TensorFlow turns oneDNN off on processors without AVX-512, where training then takes up to twice
# as long. TensorFlow reads this when it is imported, so import this package first.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

if os.path.basename("".join(sys.argv[:1])) in ("keras-ddim", "-m"):  # the command line
    # TensorFlow's start-up log passes by `sys.stderr`, and its first lines no level keeps back.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(stderr, 2)

from keras_ddim import callbacks as callbacks
from keras_ddim import conditioning as conditioning
from keras_ddim import degradations as degradations
from keras_ddim import denoisers as denoisers
from keras_ddim import distillation as distillation
from keras_ddim import encoders as encoders
from keras_ddim import export as export
from keras_ddim import generation as generation
from keras_ddim import guidance as guidance
from keras_ddim import metrics as metrics
from keras_ddim import noise_levels as noise_levels
from keras_ddim import optimal_times as optimal_times
from keras_ddim import plots as plots
from keras_ddim import presets as presets
from keras_ddim import recipes as recipes
from keras_ddim import samplers as samplers
from keras_ddim import sampling as sampling
from keras_ddim import schedules as schedules
from keras_ddim import times as times
from keras_ddim.data import draw_flowers as draw_flowers
from keras_ddim.data import load_images as load_images
from keras_ddim.generation import interpolate as interpolate
from keras_ddim.metrics import FID as FID
from keras_ddim.metrics import KID as KID
from keras_ddim.model import DiffusionModel as DiffusionModel
from keras_ddim.networks import ModulatedUNet as ModulatedUNet
from keras_ddim.networks import ResidualUNet as ResidualUNet
from keras_ddim.networks import SinusoidalEmbedding as SinusoidalEmbedding
from keras_ddim.normalizer import Normalizer as Normalizer
from keras_ddim.optimal_times import explain_times as explain_times
from keras_ddim.optimal_times import optimize_times as optimize_times
from keras_ddim.optimizers import Muon as Muon
from keras_ddim.recipes import recipe as recipe
from keras_ddim.samplers import DDIM as DDIM
from keras_ddim.samplers import DDPM as DDPM
from keras_ddim.samplers import AdamsBashforth as AdamsBashforth
from keras_ddim.samplers import DPMSolverPP as DPMSolverPP
from keras_ddim.samplers import Euler as Euler
from keras_ddim.samplers import Heun as Heun
from keras_ddim.samplers import Sampler as Sampler
from keras_ddim.samplers import UniPC as UniPC
from keras_ddim.schedules import CosineSchedule as CosineSchedule
from keras_ddim.schedules import Schedule as Schedule

__version__ = "0.1.0"
