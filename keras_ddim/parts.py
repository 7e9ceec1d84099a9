"""What schedules, conditionings and samplers have in common: they are named, saved and shown."""

import inspect
import sys
from typing import Any

import keras

from keras_ddim.checks import brief

PACKAGE = "keras_ddim"


class Part:
    """A part of a model, saved inside it.

    Subclasses keep their constructor's arguments as attributes of the same names, or implement
    `get_config`, and are registered with `keras.saving.register_keras_serializable`.
    """

    def get_config(self) -> dict:
        """The constructor's arguments, by default the attributes of their names."""
        return arguments_of(self)

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def arguments_of(part: Any) -> dict[str, Any]:
    """The arguments of its constructor that `part` keeps as attributes of the same names."""
    # Not those of the class: of a layer of Keras, they are `*args, **kwargs`.
    names = inspect.signature(type(part).__init__).parameters
    return {name: getattr(part, name) for name in names if hasattr(part, name)}


def get_part(argument: str, identifier: Any, kind: type, names: dict, default: Any) -> Any:
    """The part that `identifier` names: None, one of `names`, a serialized part (dict) or a part.

    Args:
        argument: Name of the argument that `identifier` was given as, for the message.
        identifier: See above.
        kind: The subclass of `Part` that it must be.
        names: Dict from names to classes.
        default: The class for None.
    """
    if identifier is None:
        return default()
    if isinstance(identifier, dict) and "class_name" in identifier:
        try:
            identifier = keras.saving.deserialize_keras_object(identifier)
        except TypeError as error:
            raise ValueError(
                f"`{argument}` must be of a class that can be found; see "
                "`keras.saving.register_keras_serializable`. "
                f"Received: {argument}={brief(identifier)}"
            ) from error
    if isinstance(identifier, str) and identifier in names:
        return names[identifier]()
    if isinstance(identifier, kind):
        return identifier
    raise ValueError(
        f"`{argument}` must be a `{kind.__module__}.{kind.__name__}` or one of {sorted(names)}. "
        f"Received: {argument}={brief(identifier)}"
    )


def without_unused(serialized: Any) -> Any:
    """What Keras serialized, without the arguments that nobody has switched on.

    New versions of Keras add arguments to its optimizers, losses and their schedules, and old
    versions refuse them. They are None or False by default, so that what was trained before is
    trained as before; left out while they are so, they keep no version from loading.
    """
    if isinstance(serialized, (list, tuple)):
        return type(serialized)(without_unused(value) for value in serialized)
    if not isinstance(serialized, dict):
        return serialized
    serialized = {key: without_unused(value) for key, value in serialized.items()}
    module = sys.modules.get(serialized.get("module") or "")
    cls = getattr(module, str(serialized.get("class_name")), None)
    if inspect.isclass(cls) and isinstance(serialized.get("config"), dict):
        parameters = inspect.signature(cls).parameters
        off = {n for n, p in parameters.items() if p.default is None or p.default is False}
        serialized["config"] = {
            name: value
            for name, value in serialized["config"].items()
            if not (name in off and value is parameters[name].default)
        }
    return serialized
