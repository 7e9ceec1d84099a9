"""Time and memory of each metric against the number of images, without what the encoder costs.

    python tests/benchmarks/metrics_cost.py --images 2500,5000,10000 --features 2048

Random features are handed over in batches of 128. Seconds are the medians of interleaved rounds;
memory is the peak of what NumPy allocates, features that a metric keeps included, in MB.
"""

import argparse
import gc
import time
import tracemalloc

import numpy as np

from keras_ddim.metrics import FID, KID, Precision, Recall

BATCH = 128
METRICS = FID, KID, Precision, Recall


def measure(kind, num_images, num_features):
    """`(seconds, megabytes)` of a metric from its first batch to its result."""
    gc.collect()
    rng = np.random.default_rng(0)
    tracemalloc.start()
    metric = kind(lambda images: images)
    seconds = 0.0
    for start in range(0, num_images, BATCH):
        count = min(BATCH, num_images - start)
        batches = (rng.standard_normal((count, num_features)) for _ in range(2))
        for kept, features in zip((metric.real, metric.generated), batches):
            begin = time.perf_counter()
            kept.extend(features)
            seconds += time.perf_counter() - begin
    begin = time.perf_counter()
    metric.result()
    seconds += time.perf_counter() - begin
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, peak / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default="2500,5000,10000", help="real ones, and generated ones")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    all_images = [int(part) for part in args.images.split(",")]

    measured = {}
    for _ in range(args.rounds):
        for kind in METRICS:
            for num_images in all_images:
                result = measure(kind, num_images, args.features)
                measured.setdefault((kind, num_images), []).append(result)

    print(f"{args.features} features; seconds, and peak memory in MB")
    print("| metric |" + "".join(f" {num_images:,} images |" for num_images in all_images))
    print("| --- |" + " ---: |" * len(all_images))
    for kind in METRICS:
        medians = (np.median(measured[kind, count], axis=0) for count in all_images)
        print(f"| {kind.__name__}() |" + "".join(f" {s:.1f} s, {mb:.0f} MB |" for s, mb in medians))


if __name__ == "__main__":
    main()
