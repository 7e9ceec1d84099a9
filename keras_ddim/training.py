"""Training: the backends' parts of a training step, and the end of a diverged `fit`."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_ddim.checks import PIXELS


def step_then_average(model: Any, train_step: Callable, *args: Any) -> Any:
    """Keras's training step, then `model.update_average(steps, loss)`.

    Args:
        model: A compiled `DiffusionModel`.
        train_step: `keras.Model.train_step` of the model.
        *args: Its arguments: `data`, or `state` and `data` on JAX.

    Returns:
        The logs; on JAX, the logs and the next state.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        return _on_jax(model, train_step, *args)
    before = model.optimizer.iterations + 0  # a copy: the variable changes in place
    logs = train_step(*args)
    if backend == "torch":
        import torch

        with torch.no_grad():
            model.update_average(model.optimizer.iterations - before, logs["loss"])
        return logs
    model.update_average(model.optimizer.iterations - before, _of_all_replicas(logs["loss"]))
    return logs_for_workers(logs)


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
        before = model.optimizer.iterations + 0
    logs, state = train_step(state, data)
    with scope_of(state) as scope:
        model.update_average(model.optimizer.iterations - before, logs["loss"])
    return logs, tuple([scope.get_current_value(v) for v in group] for group in variables)


def _of_all_replicas(loss: Any) -> Any:
    """The sum of all replicas' losses, so that all update their average or none."""
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return loss
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, loss)


def logs_for_workers(logs: Any) -> Any:
    """Logs with a first axis, along which Keras averages them in `MultiWorkerMirroredStrategy`."""
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}


class ReplicaSeedGenerator(keras.random.SeedGenerator):
    """A seed generator with a stream of its own for each replica of `tf.distribute`."""

    def next(self, ordered: bool = True) -> Any:
        seed = super().next(ordered)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            replica = tf.distribute.get_replica_context()
            if replica is not None and replica.num_replicas_in_sync > 1:
                number = tf.cast(replica.replica_id_in_sync_group, seed.dtype)
                seed = seed + tf.stack([number, tf.zeros_like(number)])
        return seed


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends `fit` at the first loss that is not finite; the network gets its averaged weights.

    It stops the epoch at once and raises at its end, since Keras may call it from another thread
    during the next step. As the first callback, it raises before others save anything.
    """

    async_safe = True

    has_failed = False

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.stopped = model

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            # On JAX, `self.model` would take weights that the next step may have donated by now.
            self.has_failed = self.stopped.stop_training = True

    def on_test_begin(self, logs: dict | None = None) -> None:
        if self.has_failed:  # without validation first
            self.fail()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.has_failed or not math.isfinite((logs or {}).get("loss", 0.0)):
            self.fail()

    def fail(self) -> None:
        """Gives the network its averaged weights and raises."""
        model: Any = self.model
        model.network.set_weights(model.ema_network.get_weights())
        for variable in model.optimizer.variables:
            value = ops.convert_to_numpy(variable)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                variable.assign(np.zeros_like(value))
        labels = f", labels from 0 to {model.num_classes - 1}" if model.num_classes else ""
        raise ValueError(
            f"`fit` has stopped, since the loss is not finite: images must be {PIXELS}{labels}, "
            "and the learning rate low enough; the network has its averaged weights again"
        )
