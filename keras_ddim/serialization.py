"""The base class of samplers, schedules, conditionings, guidances and degradations."""

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any

import keras

from keras_ddim.checks import require

PACKAGE = "keras_ddim"


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Serializable:
    """A frozen value: its fields are its arguments and its configuration.

    Subclasses become frozen dataclasses, registered with Keras under their top-level package:

    ```python
    class StraightSchedule(keras_ddim.Schedule):
        slope: float = 16.0

        def log_snr(self, diffusion_times):
            return self.slope * (0.5 - diffusion_times)
    ```

    `__post_init__` may check the arguments. Values are equal if class and fields are.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            raise TypeError(
                f"`{cls.__name__}` must declare its arguments as fields (`strength: float = 1.0`) "
                "and check them in `__post_init__`, got an `__init__`"
            )
        dataclasses.dataclass(frozen=True)(cls)  # type: ignore[call-overload]
        package = cls.__module__.partition(".")[0]
        keras.saving.register_keras_serializable(package)(cls)

    def _check(self, check: Callable, name: str, *args: Any, **kwargs: Any) -> None:
        """Sets a field to `check(name, value, ...)`; None stays if it is the default."""
        value = getattr(self, name)
        if value is not None or getattr(type(self), name, 0) is not None:
            object.__setattr__(self, name, check(name, value, *args, **kwargs))

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        config = {field.name: getattr(self, field.name) for field in fields if field.init}
        return keras.saving.serialize_keras_object(config)

    @classmethod
    def from_config(cls, config: dict) -> Any:
        values = keras.saving.deserialize_keras_object(config)
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value: Any) -> Any:
    """A value with tuples instead of the lists that configurations hold."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def get(argument: str, identifier: Any, kind: type, names: dict[str, type], default: type) -> Any:
    """The value of class `kind` that `identifier` stands for.

    Args:
        argument: Name of the argument, for the message.
        identifier: None for the default, one of `names`, a configuration, or the value itself.
        kind: Class of the value.
        names: Dictionary from names to classes.
        default: Class for None.
    """
    if identifier is None:
        return default()
    if isinstance(identifier, dict) and "class_name" in identifier:
        try:
            identifier = keras.saving.deserialize_keras_object(identifier)
        except TypeError as error:
            raise ValueError(f"`{argument}` is of a class that is not imported: {error}") from error
    if isinstance(identifier, str) and identifier in names:
        return names[identifier]()
    allowed = f"a `{kind.__module__}.{kind.__name__}` or one of {sorted(names)}"
    require(isinstance(identifier, kind), argument, allowed, identifier)
    return identifier


def without_unused(serialized: Any) -> Any:
    """A Keras configuration without the arguments that have their default, None or False.

    Newer versions of Keras add such arguments to optimizers and losses, and older versions could
    not load files that mention them.
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
