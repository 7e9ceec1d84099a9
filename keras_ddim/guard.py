"""A training step that is applied whole or not at all, and the average that follows the weights.

Keras's own training step computes the loss, differentiates it and updates the weights, on every
backend in its own way. What is here goes around it: if the loss and the new weights came out
finite, the average follows; else all is put back as it was before the step. A step that is refused
makes the mean loss of the epoch NaN, hence nothing more is applied in that epoch, however late it
is noticed.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import ALLOWED_IMAGES, RANGE_TOLERANCE


def guarded_step(model: Any, train_step: Callable, *args: Any) -> Any:
    """Keras's training step, then the average; or nothing, if loss or weights are not finite.

    Args:
        model: A compiled model with `network` and `averaged_weights`.
        train_step: `keras.Model.train_step` of the model.
        *args: Its arguments: `data`, or `state` and `data` on JAX.

    Returns:
        What `train_step` returns.
    """
    guards: dict[str, Callable] = {
        "tensorflow": _on_tensorflow,
        "jax": _on_jax,
        "torch": _on_torch,
    }
    return guards[keras.backend.backend()](model, train_step, *args)


def _is_finite(logs: dict, averages: list) -> Any:
    """Whether the loss is finite, and the weights after the step, which are in the averages."""
    # A sum is not finite if a term is not; weights too large for it have long diverged.
    sums = [ops.sum(ops.cast(value, "float32")) for _, value in averages]
    return ops.logical_and(ops.isfinite(logs["loss"]), ops.isfinite(ops.sum(ops.stack(sums))))


def _logged(model: Any, logs: dict, is_finite: Any) -> dict:
    """The logs; where the step is refused with a loss of NaN, for the rest of the epoch."""
    nan = ops.where(is_finite, 0.0, math.nan)
    total = model._loss_tracker.total
    total.assign(total + nan)
    return {**logs, "loss": logs["loss"] + nan}


def _on_tensorflow(model: Any, train_step: Callable, data: Any) -> dict:
    import tensorflow as tf

    variables = [*model.network.weights, *model.optimizer.variables]
    before = [(variable, tf.identity(variable.value)) for variable in variables]
    iterations = tf.identity(model.optimizer.iterations)
    logs = train_step(data)
    averages = model.averaged_weights(model.optimizer.iterations - iterations)
    is_finite = _is_finite(logs, averages)
    logs = _logged(model, logs, is_finite)

    def assign(pairs: list) -> Callable:
        def assign_all() -> tf.Tensor:
            for variable, value in pairs:
                variable.assign(value)
            return tf.constant(0)

        return assign_all

    replica = tf.distribute.get_replica_context()
    if not tf.distribute.has_strategy():
        tf.cond(is_finite, assign(averages), assign(before))
        return logs

    def update(strategy: Any, failures: Any, averages: list, before: list) -> None:
        """Across replicas, which hold equal values: each variable is assigned on each device."""

        def assign(values: list, variables: list) -> Callable:
            def assign_all() -> tf.Tensor:
                for variable, value in zip(variables, values):
                    strategy.extended.update(
                        variable.value, lambda v, x: v.assign(tf.cast(x, v.dtype)), args=(value,)
                    )
                return tf.constant(0)

            return assign_all

        failed = strategy.experimental_local_results(failures)[0]
        averaged = [variable for variable, _ in model.averaged_weights(0)]
        tf.cond(failed == 0, assign(averages, averaged), assign(before, variables))

    # All must agree: the gradients of one have gone into the weights of all.
    failures = tf.cast(tf.logical_not(is_finite), "float32")
    failures = replica.all_reduce(tf.distribute.ReduceOp.SUM, failures)
    values = ([value for _, value in averages], [value for _, value in before])
    replica.merge_call(update, args=(failures, *values))
    return logs


def _on_jax(model: Any, train_step: Callable, state: tuple, data: Any) -> tuple[dict, tuple]:
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )

    def scope_of(values: tuple) -> keras.StatelessScope:
        pairs = [pair for group in zip(variables, values) for pair in zip(*group)]
        return keras.StatelessScope(state_mapping=pairs)

    with scope_of(state):
        iterations = ops.convert_to_tensor(model.optimizer.iterations)
    logs, next_state = train_step(state, data)
    with scope_of(next_state) as scope:
        averages = model.averaged_weights(model.optimizer.iterations - iterations)
        is_finite = _is_finite(logs, averages)
        logs = _logged(model, logs, is_finite)
        for variable, value in averages:
            variable.assign(value)
    next_state = [[scope.get_current_value(variable) for variable in v] for v in variables]
    # The metrics stay as they are, so that the loss is known to be what it is.
    for values, before in list(zip(next_state, state))[:3]:
        values[:] = [ops.where(is_finite, v, old) for v, old in zip(values, before)]
    return logs, tuple(next_state)


def _on_torch(model: Any, train_step: Callable, data: Any) -> dict:
    import torch

    variables = [*model.network.weights, *model.optimizer.variables]
    before = [variable.value.detach().clone() for variable in variables]
    iterations = ops.convert_to_tensor(model.optimizer.iterations).clone()
    logs = train_step(data)
    with torch.no_grad():
        steps = ops.convert_to_tensor(model.optimizer.iterations) - iterations
        averages = model.averaged_weights(steps)
        is_finite = _is_finite(logs, averages)
        for variable, value in averages if bool(is_finite) else zip(variables, before):
            variable.assign(value)
        return _logged(model, logs, is_finite)


class ValueRange(keras.metrics.Metric):
    """Lowest and highest value of the first batch out of range, for the message; else 0 and 0.

    They start as zeros and stay so for values in range, since replicas add theirs up.

    Args:
        name: Name of the metric.
        lowest: The lowest value allowed.
        highest: The highest.
        allowed: What the values must be, for the message.
    """

    def __init__(self, name: str, lowest: float, highest: float, allowed: str) -> None:
        super().__init__(name=name)
        self.lowest, self.highest, self.allowed = lowest, highest, allowed
        self.low = self.add_variable((), "zeros", name="low")
        self.high = self.add_variable((), "zeros", name="high")

    def update_state(self, low: Any, high: Any, unit: Any) -> None:
        before = [ops.convert_to_tensor(end) for end in (self.low, self.high)]
        is_first = ops.logical_and(before[0] == 0, before[1] == 0)
        is_new = ops.logical_and(is_first, ops.logical_not(self.includes(low, high, unit)))
        self.low.assign(ops.where(is_new, low, before[0]))
        self.high.assign(ops.where(is_new, high, before[1]))

    def includes(self, low: Any, high: Any, unit: Any) -> Any:
        """Whether the values are in range, give or take rounding; False for NaN."""
        return ops.logical_and(
            low >= (self.lowest - RANGE_TOLERANCE) * unit,
            high <= (self.highest + RANGE_TOLERANCE) * unit,
        )

    def result(self) -> Any:
        return self.low


def image_range() -> ValueRange:
    return ValueRange("image_range", 0, 1, ALLOWED_IMAGES)


def label_range(num_classes: int) -> ValueRange:
    allowed = f"Labels must be integers from 0 to {num_classes - 1}"
    return ValueRange("label_range", 0, num_classes - 1, allowed)


def range_of(values: Any, unit: float = 1.0) -> tuple[Any, Any, Any]:
    """Lowest and highest of values, both NaN if one of them is, and the one that stands for 1."""
    values = ops.cast(values, "float32")
    # Not every backend's minimum is NaN then; its sum is.
    nan = ops.sum(values) * 0
    return ops.min(values) + nan, ops.max(values) + nan, ops.full((), unit)


def check_loss(model: Any, loss: Any) -> None:
    """Raises a `ValueError` that says why, if a loss is not finite."""
    if np.isfinite(ops.convert_to_numpy(loss)):
        return
    ends = [[float(end.numpy()) for end in (r.low, r.high)] for r in model.value_ranges]
    model.reset_metrics()
    for value_range, (low, high) in zip(model.value_ranges, ends):
        if (low, high) != (0, 0):
            raise ValueError(
                f"{value_range.allowed}. Received: values from {low:g} to {high:g}. The model is "
                "as it was before them."
            )
    raise ValueError(
        "The loss, or a weight after the step, is not finite: training diverged. The model is as "
        "it was before that step; continue with a lower learning rate."
    )


class StopWhereLossIsNotFinite(keras.callbacks.Callback):
    """Ends training and evaluation with one sentence, at the end of the epoch that it cuts short.

    Not at once: what Keras calls after a batch may run beside the next step, in another thread, and
    on JAX nothing of the model may be touched there.
    """

    async_safe = True

    def __init__(self) -> None:
        super().__init__()
        self.is_training = False
        self.has_failed = False

    def _look(self, logs: dict | None) -> None:
        self.has_failed |= not math.isfinite((logs or {}).get("loss", 0.0))

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.is_training = True

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._look(logs)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self.has_failed:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        check_loss(self.model, (logs or {}).get("loss", 0.0))

    def on_test_begin(self, logs: dict | None = None) -> None:
        if self.is_training:  # an epoch that failed is not worth its validation
            check_loss(self.model, self.model._loss_tracker.result())

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._look(logs)

    def on_test_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self.has_failed:
            self.model.stop_evaluating = True

    def on_test_end(self, logs: dict | None = None) -> None:
        check_loss(self.model, (logs or {}).get("loss", 0.0))


class ReplicaSeedGenerator(keras.random.SeedGenerator):
    """A seed generator whose replicas, under `tf.distribute`, draw each their own."""

    def next(self, ordered: bool = True) -> Any:
        seed = super().next(ordered)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            replica = tf.distribute.get_replica_context()
            if replica is not None and replica.num_replicas_in_sync > 1:
                number = tf.cast(replica.replica_id_in_sync_group, seed.dtype)
                seed = seed + tf.stack([number, tf.zeros_like(number)])
        return seed


def logs_for_workers(logs: Any) -> Any:
    """Logs as Keras can average them over the processes of a MultiWorkerMirroredStrategy.

    There, and there alone, it takes their mean along a first axis, which scalars do not have.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}
