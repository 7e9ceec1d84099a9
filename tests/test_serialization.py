"""Values: their fields are their arguments, their configuration and their identity."""

import copy
import dataclasses
import json
import pickle

import keras
import pytest

import keras_ddim
from keras_ddim import conditioning, degradations, samplers, schedules
from keras_ddim.serialization import Serializable
from tests.test_conditioning import CONDITIONINGS
from tests.test_samplers import SAMPLERS
from tests.test_schedules import ALL

pytestmark = pytest.mark.core


class Nested(Serializable):
    inner: Serializable
    numbers: tuple = (1, 2)
    name: str = "a"


def test_values_are_their_fields():
    value = Nested(keras_ddim.UniPC(3), numbers=(3, (4, 5)))
    config = keras.saving.serialize_keras_object(value)
    assert config["registered_name"] == "tests>Nested"
    for other in (
        keras.saving.deserialize_keras_object(config),
        pickle.loads(pickle.dumps(value)),
        copy.deepcopy(value),
        dataclasses.replace(value),
    ):
        assert other == value and hash(other) == hash(value) and repr(other) == repr(value)
    assert dataclasses.replace(value, name="b") != value
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.name = "b"


VALUES = [*SAMPLERS, *ALL.values(), *CONDITIONINGS.values()]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_value_is_its_configuration(value):
    config = keras.saving.serialize_keras_object(value)
    other = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert other == value and hash(other) == hash(value) and repr(other) == repr(value)


def test_derived_numbers_are_no_part_of_a_value():
    schedule = schedules.LinearBetaSchedule(10)
    assert len(schedule.betas) == 10
    assert schedule == schedules.LinearBetaSchedule(10)
    assert "betas" not in schedule.get_config()


def test_class_that_is_defined_again_makes_other_values():
    """As in a notebook cell that is run once more."""

    def define():
        class Own(keras_ddim.Sampler):
            strength: float = 1.0

        return Own

    first, second = define(), define()
    assert repr(first()) == repr(second())
    assert first() == first() and hash(first()) == hash(first())
    assert first() != second()


def test_own_constructor_is_refused():
    with pytest.raises(TypeError, match="must declare its arguments as fields"):

        class Own(keras_ddim.Schedule):
            def __init__(self, strength):
                self.strength = strength


def test_class_that_is_not_imported():
    config = keras.saving.serialize_keras_object(keras_ddim.DDIM())
    config = {**config, "module": "elsewhere", "class_name": "Own", "registered_name": "Own"}
    with pytest.raises(ValueError, match="`sampler` is of a class that is not imported"):
        samplers.get(config)


@pytest.mark.parametrize(
    ("module", "names", "default"),
    [
        (samplers, samplers.SAMPLERS, keras_ddim.DDIM()),
        (schedules, schedules.SCHEDULES, keras_ddim.CosineSchedule()),
        (conditioning, conditioning.CONDITIONINGS, conditioning.NoiseVariance()),
        (degradations, degradations.DEGRADATIONS, degradations.Identity()),
    ],
)
def test_get(module, names, default):
    assert module.get(None) == default
    assert module.get(default) is default
    for name, cls in names.items():
        assert module.get(name) == cls()
    relu = keras.saving.serialize_keras_object(keras.layers.ReLU())
    for wrong in ("nothing", type(default), relu):
        with pytest.raises(ValueError, match=rf"must be a `{module.__name__}.* or one of .*, got"):
            module.get(wrong)
