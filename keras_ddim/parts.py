"""What schedules, conditionings and samplers have in common: they are named, saved and shown."""

from typing import Any

import keras

PACKAGE = "keras_ddim"


class Part:
    """A part of a model, saved inside it.

    Subclasses implement `get_config` if their constructor takes arguments, and are registered with
    `keras.saving.register_keras_serializable`.
    """

    def get_config(self) -> dict:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def get_part(argument: str, identifier: Any, kind: type, names: dict, default: Any) -> Any:
    """The part that `identifier` names.

    Args:
        argument: Name of the argument that `identifier` was given as, for the message.
        identifier: None, one of `names`, a serialized part (dict) or a part.
        kind: The subclass of `Part` that it must be.
        names: Dict from names to classes.
        default: The class for None.

    Raises:
        ValueError: If `identifier` is none of these.
    """
    if identifier is None:
        return default()
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, str) and identifier in names:
        return names[identifier]()
    if isinstance(identifier, kind):
        return identifier
    raise ValueError(
        f"`{argument}` must be a `{kind.__module__}.{kind.__name__}` or one of {sorted(names)}. "
        f"Received: {argument}={identifier!r}"
    )
