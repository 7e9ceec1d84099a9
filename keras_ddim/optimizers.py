"""Muon for convolutions."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_ddim")
class Muon(keras.optimizers.Muon):
    """Muon: Adam, except that the updates of matrices and kernels are nearly orthogonal.

    `keras.optimizers.Muon` leaves kernels to Adam. Here, a kernel (height, width, in, out) is a
    matrix (height * width * in, out), unless it has fewer than 16 input or output channels. Adam
    updates the rest, such as biases and embeddings.

    Args:
        learning_rate: A float or a schedule. Defaults to 1e-3.
        rms_rate: Root mean square of a matrix's update at a learning rate of 1. Defaults to 0.6.
        adam_beta_2: Decay of Adam's second moment. Defaults to 0.99.
        **kwargs: Further arguments of `keras.optimizers.Muon`; weight decay is off by default.

    Example:

    ```python
    model = keras_ddim.DiffusionModel((32, 32, 3))
    model.compile(keras_ddim.Muon(2e-3, global_clipnorm=1.0))
    ```

    References:
        [Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/),
        [Liu et al., 2025](https://arxiv.org/abs/2502.16982)
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        rms_rate: float = 0.6,
        adam_beta_2: float = 0.99,
        **kwargs: Any,
    ) -> None:
        kwargs = {"weight_decay": None, "adam_weight_decay": None, **kwargs}
        super().__init__(learning_rate, rms_rate=rms_rate, adam_beta_2=adam_beta_2, **kwargs)

    def _should_use_adamw(self, variable: Any) -> bool:
        if len(variable.shape) == 4:
            return min(variable.shape[-2:]) < 16
        return super()._should_use_adamw(variable)

    def _muon_update_step(self, gradient: Any, variable: Any, lr: Any, m: Any) -> None:
        self.assign(m, self.momentum * m + gradient)
        update = self.momentum * m + gradient if self.nesterov else m
        update = self.lr_adjust(self._orthogonalize(ops.reshape(update, (-1, update.shape[-1]))))
        self.assign_sub(variable, lr * ops.reshape(update, variable.shape))

    def _orthogonalize(self, matrix: Any) -> Any:
        """Newton-Schulz on the Gram matrix of the shorter side: a fifth of the multiplications."""
        is_tall = matrix.shape[0] > matrix.shape[1]
        wide = ops.transpose(matrix) if is_tall else matrix
        wide = wide / (ops.norm(wide) + 1e-7)
        gram = wide @ ops.transpose(wide)
        factor = identity = ops.eye(wide.shape[0], dtype=wide.dtype)
        for _ in range(self.ns_steps):
            polynomial = self.muon_a * identity + self.muon_b * gram + self.muon_c * gram @ gram
            factor, gram = polynomial @ factor, polynomial @ gram @ polynomial
        wide = factor @ wide
        return ops.transpose(wide) if is_tall else wide
