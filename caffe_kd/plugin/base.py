"""What the plugin's layers share: Caffe's base class, settings, losses."""

# No future annotations and no syntax that Python 3.6 lacks.

import math
import re
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

try:
    from caffe import Layer  # type: ignore[import-not-found]
except ImportError as _error:
    _WHY = str(_error)
    try:
        from caffe_kd import Layer  # type: ignore[no-redef]
    except ImportError:

        class Layer:  # type: ignore[no-redef]
            """The base class without Caffe: a script may use the layers, a net cannot."""

            def __init__(self, *layer_param: Any) -> None:
                if layer_param:
                    raise ImportError("caffe_kd.plugin needs pycaffe on PYTHONPATH: " + _WHY)


_SETTING = re.compile(
    r"(?P<quote>[\"']?)(?P<name>\w+)(?P=quote)\s*:\s*"
    r"(?:(?P<mark>[\"'])(?P<quoted>.*?)(?P=mark)|(?P<plain>[^\s,;\"']+))[\s,;]*"
)

Known = Dict[str, Tuple[Callable[[str], Any], Any]]  # the parser of a setting, and its default
Shape = Tuple[int, ...]


# ---- the settings


def number(text: str) -> float:
    """Return a number as in a prototxt's float field."""
    return float(np.float32(text))


def numbers(text: str) -> List[float]:
    """Return numbers separated by spaces."""
    return [number(word) for word in text.split()]


def count(text: str) -> int:
    """Return a whole number, 0 or more."""
    value = int(text)
    if value < 0:
        raise ValueError("below 0")
    return value


def flag(text: str) -> bool:
    """Return true or false."""
    return {"true": True, "True": True, "false": False, "False": False}[text]


def one_of(*names: str) -> Callable[[str], str]:
    """Return a parser that accepts only these names."""
    return lambda text: names[names.index(text)]


def read_settings(param_str: str, known: Known) -> Any:
    """Return the settings of a ``param_str`` by name, with defaults for missing ones.

    Args:
        param_str: ``name: value``, any number of times; commas between them are allowed, and the
            punctuation of a dict in Python or JSON.
        known: by name, the parser of the value and its default.

    Raises:
        ValueError: the text is not of this form, or a name or value is unknown.
    """
    settings = {name: default for name, (_, default) in known.items()}
    given = set()
    at, text = 0, param_str.strip()
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1].strip()
    while at < len(text):
        match = _SETTING.match(text, at)
        if match is None:
            raise ValueError(f"param_str must be 'name: value ...'. Received: {text[at:]!r}")
        name = match.group("name")
        value = match.group("quoted" if match.group("mark") else "plain")
        if name not in known:
            raise ValueError(f"param_str: no setting '{name}'. Known: {', '.join(known) or 'none'}")
        if name in given:
            raise ValueError(f"param_str: '{name}' is given twice")
        try:
            settings[name] = known[name][0](value)
        except (KeyError, ValueError):
            raise ValueError(f"param_str: {name} cannot be '{value}'") from None
        given.add(name)
        at = match.end()
    return settings


# ---- the layers


def blobs(vector: Any) -> List[Any]:
    """Return the blobs of a layer's bottoms or tops, which pycaffe cannot iterate over."""
    return [vector[index] for index in range(len(vector))]


class PluginLayer(Layer):  # type: ignore[misc]  # of whichever Caffe is installed
    """A layer with settings, one top and a known number of bottoms.

    Attributes:
        known: the settings.
        bottoms: the allowed numbers of bottoms; empty: any number.
    """

    known: Known = {}
    bottoms: Sequence[int] = (1,)

    def setup(self, bottom: Any, top: Any) -> None:
        if len(bottom) not in (self.bottoms or (len(bottom) or 1,)) or len(top) != 1:
            counts = " or ".join(map(str, self.bottoms)) or "1 or more"
            self.refuse(f"it takes {counts} bottom{'s' if counts != '1' else ''} and one top")
        try:
            self.settings = read_settings(self.param_str, self.known)
        except ValueError as error:
            self.refuse(str(error))
        if not 0 < self.settings.get("temperature", 1) < math.inf:
            self.refuse("temperature must be above 0")
        self.check_settings(len(bottom))

    def check_settings(self, bottoms: int) -> None:
        """Refuse invalid settings."""

    def refuse_below_0(self, *names: str) -> None:
        """Refuse numbers below 0."""
        for name in names:
            if not 0 <= self.settings[name] < math.inf:
                self.refuse(f"{name} must be at least 0. Received: {self.settings[name]}")

    def refuse(self, fact: str) -> None:
        """Raise a ValueError that names the layer's class."""
        raise ValueError(f"{type(self).__name__}: {fact}")


class LossLayer(PluginLayer):
    """A loss, of shape (1), with a gradient to the student's bottoms alone.

    Attributes:
        students: how many of the first bottoms are the student's.
    """

    bottoms: Sequence[int] = (2,)
    students = 1

    def reshape(self, bottom: Any, top: Any) -> None:
        self.check_shapes([tuple(b.shape) for b in blobs(bottom)])
        top[0].reshape(1)

    def check_shapes(self, shapes: List[Shape]) -> None:
        """Refuse bottoms that do not match."""

    def forward(self, bottom: Any, top: Any) -> None:
        values = [np.asarray(b.data, dtype=np.float64) for b in blobs(bottom)]
        value, self.gradients = self.loss(values)
        top[0].data[...] = value

    def loss(self, values: List[np.ndarray]) -> Tuple[float, List[np.ndarray]]:
        """Return the loss of the bottoms' values, and its gradients to the student's."""
        raise NotImplementedError

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        weight = float(top[0].diff.reshape(-1)[0])
        for index in range(len(bottom)):
            if not propagate_down[index]:
                continue
            if index < self.students:
                found = self.gradients[index] * weight
                bottom[index].diff[...] = found.reshape(bottom[index].diff.shape)
            else:
                bottom[index].diff[...] = 0
