"""The samplers beside those of diffusers, azula and k-diffusion, on the same lists.

    pip install diffusers azula k-diffusion && python -m tests.benchmarks.parity

All separate by the same exact denoiser of a mixture of normals, in float64, and start from the same
noise. Printed are, for each list, the root-mean-square error of our images and of theirs, and, in
brackets, how far the two are apart: about 1e-12 where formulas are the same. Where they are not,
the row says why. Libraries that are not installed are left out.
"""

import importlib
import os
import sys

# Keras on torch makes float32 of float64 and a Python number.
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np
from keras import ops

from keras_ddim import DDIM, AdamsBashforth, DPMSolverPP, Heun, UniPC, schedules, times
from keras_ddim.sampling import Step, compile_step, sample
from tests.mixture import MixtureDenoiser

DENOISER = MixtureDenoiser()
NOISES = np.random.default_rng(0).standard_normal((16, *DENOISER.image_shape))
SCHEDULE = schedules.LinearBetaSchedule()
LISTS = {
    f"{name}, {n}": np.asarray(ops.convert_to_numpy(SCHEDULE.log_snr(make(n))), "float64")
    for name, make in {
        "leading": lambda n: times.timesteps(n, 1000),
        "uniform log-SNR": lambda n: times.uniform_log_snr(n, SCHEDULE),
        "Karras": lambda n: times.karras(n, SCHEDULE),
    }.items()
    for n in (5, 10, 20)
}
# What makes ours differ, where it does.
LONG = "ours is of lower order in long steps"
FINAL = f"{LONG}, theirs in the last ones"


def ours(sampler, levels):
    step = compile_step(Step(DENOISER, sampler))
    *_, (_, pred_images) = sample(step, ops.convert_to_tensor(NOISES), levels)
    return ops.convert_to_numpy(pred_images)


def separate(noisy_images, log_snr):
    """Torch tensors to the predicted noises and images as torch tensors."""
    import torch

    level = ops.convert_to_tensor(np.float64(log_snr))
    components = DENOISER(ops.convert_to_tensor(noisy_images.numpy()), level)
    return [torch.from_numpy(ops.convert_to_numpy(component)) for component in components]


def of_diffusers(name, **options):
    """A scheduler of diffusers, its table of levels replaced by a list in float64."""

    def run(levels):
        import diffusers
        import torch

        n, alphas_cumprod = len(levels), torch.from_numpy(1 / (1 + np.exp(-levels[::-1].copy())))
        # Its timesteps 0, ..., n - 1 are the levels of the list, the cleanest first.
        scheduler = getattr(diffusers, name)(num_train_timesteps=n, **options)
        scheduler.alphas_cumprod = alphas_cumprod
        scheduler.set_timesteps(n)
        scheduler.timesteps = torch.arange(n - 1, -1, -1)
        if hasattr(scheduler, "sigmas"):
            sigmas = np.append(np.exp(-levels / 2), 0.0)
            scheduler.sigmas = torch.from_numpy(sigmas)
        noisy_images = torch.from_numpy(NOISES)
        for timestep, level in zip(scheduler.timesteps, levels):
            pred_noises, _ = separate(noisy_images, level)
            noisy_images = scheduler.step(pred_noises, timestep, noisy_images).prev_sample
        return noisy_images.numpy()

    return run


def of_azula(name, **options):
    """A sampler of azula, whose times are positions in the list."""

    def run(levels):
        import azula.denoise
        import azula.sample
        import torch

        table = torch.from_numpy(levels)

        class Exact(azula.denoise.Denoiser):
            def schedule(self, t):
                log_snr = table[t.long()]
                return torch.sqrt(torch.sigmoid(log_snr)), torch.sqrt(torch.sigmoid(-log_snr))

            def forward(self, x_t, t):
                return azula.denoise.DiracPosterior(separate(x_t, table[t.long()])[1])

        last = len(levels) - 1
        make = getattr(azula.sample, name)
        positions = {"start": 0.0, "stop": float(last), "steps": last, "dtype": torch.float64}
        sampler = make(Exact(), silent=True, **positions, **options)
        return separate(sampler(torch.from_numpy(NOISES)), levels[-1])[1].numpy()

    return run


def of_k_diffusion(name, **options):
    """A function of k-diffusion, whose images are not scaled down as noise is added."""

    def run(levels):
        import k_diffusion.sampling
        import torch

        def denoise(images, sigma):
            sigma = float(sigma[0])
            return separate(images / np.sqrt(1 + sigma**2), -2 * np.log(sigma))[1]

        sigmas = torch.from_numpy(np.append(np.exp(-levels / 2), 0.0))
        start = torch.from_numpy(NOISES) * torch.sqrt(1 + sigmas[0] ** 2)
        function = getattr(k_diffusion.sampling, name)
        return function(denoise, start, sigmas, disable=True, **options).numpy()

    return run


PAIRS = {
    "diffusers": [
        (DDIM(), "DDIM", of_diffusers("DDIMScheduler", clip_sample=False), ""),
        *[
            (sampler, label, of_diffusers(name, solver_order=sampler.order), FINAL)
            for sampler, label, name in (
                (DPMSolverPP(2), "DPM-Solver++(2M)", "DPMSolverMultistepScheduler"),
                (DPMSolverPP(3), "DPM-Solver++(3M)", "DPMSolverMultistepScheduler"),
                (UniPC(2), "UniPC(2)", "UniPCMultistepScheduler"),
                (UniPC(3), "UniPC(3)", "UniPCMultistepScheduler"),
            )
        ],
    ],
    "azula": [
        (DDIM(), "DDIM", of_azula("DDIMSampler"), ""),
        (Heun(), "Heun", of_azula("HeunSampler"), ""),
        (AdamsBashforth(2), "zEAB(2)", of_azula("zEABSampler", order=2), ""),
        (AdamsBashforth(3), "zEAB(3)", of_azula("zEABSampler", order=3), LONG),
        (
            DPMSolverPP(2),
            "xEAB(2)",
            of_azula("xEABSampler", order=2),
            f"ours weighs the slope as the paper does; {LONG}",
        ),
        (DPMSolverPP(3), "xEAB(3)", of_azula("xEABSampler", order=3), LONG),
    ],
    "k_diffusion": [
        (DDIM(), "Euler", of_k_diffusion("sample_euler"), ""),
        (Heun(), "Heun", of_k_diffusion("sample_heun"), ""),
        (DPMSolverPP(2), "DPM-Solver++(2M)", of_k_diffusion("sample_dpmpp_2m"), LONG),
        (
            DPMSolverPP(2, "singlestep"),
            "DPM-Solver++(2S)",
            of_k_diffusion("sample_dpmpp_2s_ancestral", eta=0.0),
            "",
        ),
        (
            AdamsBashforth(3),
            "LMS(3)",
            of_k_diffusion("sample_lms", order=3),
            f"ours integrates over log-SNR; {LONG}",
        ),
    ],
}


def main():
    exact_images = {
        start: ours(UniPC(2), np.linspace(start, 16.0, 400))
        for start in {float(levels[0]) for levels in LISTS.values()}
    }

    def error(images, levels):
        return np.sqrt(np.mean((images - exact_images[float(levels[0])]) ** 2))

    print("| ours | theirs | " + " | ".join(LISTS) + " | |")
    print("| --- | --- |" + " ---: |" * len(LISTS) + " --- |")
    for library, pairs in PAIRS.items():
        try:
            importlib.import_module({"k_diffusion": "k_diffusion.sampling"}.get(library, library))
        except Exception as problem:  # whatever keeps it from being imported
            print(f"without {library}: {problem}", file=sys.stderr)
            continue
        for sampler, name, run, note in pairs:
            cells = []
            for levels in LISTS.values():
                images, their_images = ours(sampler, levels), run(levels)
                apart = np.sqrt(np.mean((images - their_images) ** 2))
                errors = [error(images, levels), error(their_images, levels)]
                cells.append("{:.3f} / {:.3f} ({:.0e})".format(*errors, apart))
            variant = ", singlestep" * (getattr(sampler, "variant", "") == "singlestep")
            our_name = f"{type(sampler).__name__}({sampler.order}{variant})"
            row = [our_name, f"{library}: {name}", *cells, note]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
