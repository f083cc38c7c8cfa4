"""NetSpec: writes a net in Python, one call for each layer.

::

    from caffe_kd import layers as L, params as P, NetSpec
    n = NetSpec()
    n.data, n.label = L.Data(source="train_lmdb", backend=P.Data.LMDB, batch_size=64, ntop=2)
    n.pool1 = L.Pooling(n.data, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.loss = L.SoftmaxWithLoss(n.pool1, n.label)
    print(n.to_proto())

Only field names are checked here; ``Net`` builds and checks the rest from the prototxt.

Source: pycaffe's net_spec.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from ..core.errors import NetError, did_you_mean
from ..proto import caffe_pb2
from ..proto.user_blocks import field_of, value_of

# ---- from Python values to messages


@cache
def param_name_dict() -> dict[str, str]:
    """Return the field name of each type's own parameters without "_param": Pooling: "pooling"."""
    # Fields of forks that are spelt unlike Caffe's are left out.
    fields = [f for f in caffe_pb2.LayerParameter.DESCRIPTOR.fields if f.name.islower()]
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in fields
        if field.message_type is not None and field.name.endswith("_param")
    }


def assign_proto(proto: Any, name: str, value: Any) -> None:
    """Set a message's field to a Python value.

    A dict becomes a message, a list or tuple a repeated field; a single value also fits a repeated
    field.

    Raises:
        NetError: there is no such field, or the value does not fit.
    """
    field = field_of(proto.DESCRIPTOR, name)
    if field is None:
        known = [f.name for f in proto.DESCRIPTOR.fields]
        raise NetError(f"{proto.DESCRIPTOR.name} has no field '{name}'.{did_you_mean(name, known)}")
    try:
        if field.is_repeated:
            _extend(getattr(proto, name), value)
        elif field.message_type is not None:
            _fill(value_of(proto, field), value)
        else:
            setattr(proto, name, _as_python(value))
    except (TypeError, ValueError) as error:
        raise NetError(
            f"field '{name}' of {proto.DESCRIPTOR.name} cannot be set: {error}. Received: {value!r}"
        ) from None


def _extend(repeated: Any, value: Any) -> None:
    items = value if isinstance(value, (list, tuple)) or hasattr(value, "tolist") else [value]
    for item in items:
        if hasattr(repeated, "add"):
            _fill(repeated.add(), item)
        else:
            repeated.append(_as_python(item))


def _fill(message: Any, value: Any) -> None:
    message.SetInParent()  # an empty dict makes an empty message
    if isinstance(value, Mapping):
        for key, item in value.items():
            assign_proto(message, key, item)
    else:
        message.CopyFrom(value)


def _as_python(value: Any) -> Any:
    """Return numpy scalars as Python's, which protobuf accepts everywhere."""
    return value.item() if hasattr(value, "item") else value


def _assign_parameter(layer: Any, name: str, value: Any) -> None:
    """Set a layer's parameter: one of its type's own message, else one that every layer has."""
    own = _own_message(layer) if not name.endswith("param") else None
    if own is not None and name in own.DESCRIPTOR.fields_by_name:
        assign_proto(own, name, value)
    elif own is None or field_of(layer.DESCRIPTOR, name) is not None:
        assign_proto(layer, name, value)
    else:
        known = [f.name for f in [*own.DESCRIPTOR.fields, *layer.DESCRIPTOR.fields]]
        raise NetError(f"L.{layer.type} takes no '{name}'.{did_you_mean(name, known)}")


def _own_message(layer: Any) -> Any:
    """Return the message of a type's own parameters; None where the type has none."""
    prefix = param_name_dict().get(layer.type)
    if prefix is not None:
        return getattr(layer, f"{prefix}_param")
    from ..layers import layer_types  # imports torch, which most specs do not need

    cls = layer_types().get(layer.type)
    return cls.settings_in(layer) if cls is not None else None


# ---- tops and layers


class Top:
    """One top of a layer, to be used as a bottom of other layers.

    Attributes:
        fn: the layer that makes it.
        n: its index among the layer's tops.
    """

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """Return the NetParameter of all the layers that this top needs."""
        return to_proto(self)

    def _update(self, params: Mapping[str, Any]) -> None:
        self.fn.params.update(params)

    def _to_proto(self, writer: _Writer) -> None:
        writer.add(self.fn)


class Function:
    """A layer that is called on tops.

    Attributes:
        type_name: the layer's type.
        inputs: the tops it takes.
        params: its parameters.
        ntop: how many tops it makes.
        in_place: whether its tops are its bottoms.
    """

    def __init__(self, type_name: str, inputs: Sequence[Top], params: dict[str, Any]) -> None:
        self.type_name = type_name
        for index, top in enumerate(inputs):
            if not isinstance(top, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(top)})")
        self.inputs = inputs
        self.params = params
        self.ntop: int = params.pop("ntop", 1)
        self.in_place: bool = params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_proto(self) -> Any:
        """Return the NetParameter of this layer and all that it needs."""
        return to_proto(self)

    def _to_proto(self, writer: _Writer) -> None:
        writer.add(self)


class _Writer:
    """Writes layers in topological order."""

    def __init__(self, names: dict[Any, str]) -> None:
        self.layers: OrderedDict[Function, Any] = OrderedDict()
        self._names = names
        self._counts: Counter[str] = Counter()  # the unnamed ones of each type so far

    def add(self, last: Function) -> None:
        """Write a layer after all that it needs, without recursion, since nets may be deep."""
        waiting = [last]
        while waiting:
            fn = waiting[-1]
            missing = [top.fn for top in fn.inputs if top.fn not in self.layers]
            if fn in self.layers:
                waiting.pop()
            elif missing:
                waiting.extend(reversed(missing))
            else:
                self.layers[fn] = self._layer(waiting.pop())

    def _layer(self, fn: Function) -> Any:
        bottoms = [self.layers[top.fn].top[top.n] for top in fn.inputs]
        layer = caffe_pb2.LayerParameter(type=fn.type_name, bottom=bottoms)
        tops = bottoms if fn.in_place else [self._name_of(top, fn) for top in fn.tops]
        layer.top.extend(tops)
        layer.name = self._name_of(fn.tops[0] if fn.tops else fn, fn)
        for name, value in fn.params.items():
            _assign_parameter(layer, name, value)
        return layer

    def _name_of(self, what: Top | Function, fn: Function) -> str:
        if what not in self._names:
            self._counts[fn.type_name] += 1
            self._names[what] = f"{fn.type_name}{self._counts[fn.type_name]}"
        return self._names[what]


def to_proto(*tops: Top | Function) -> Any:
    """Return the NetParameter of all layers that the tops need, named ``Type1``, ``Type2``, …."""
    writer = _Writer({})
    for top in tops:
        top._to_proto(writer)
    return caffe_pb2.NetParameter(layer=list(writer.layers.values()))


class NetSpec:
    """A net's tops by name: ``n.conv1 = L.Convolution(n.data, …)`` names blob and layer.

    ``n["conv1"]`` is the same, for names that are not Python identifiers. A layer has the name of
    its first top; one without tops can be assigned too: ``n.silence = L.Silence(n.label, ntop=0)``.
    """

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        tops = self.__dict__.get("tops", {})  # not set yet while a copy is made
        if name in tops:
            return tops[name]
        raise AttributeError(f"the NetSpec has no top '{name}'.{did_you_mean(name, tops)}")

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def update(self, name: str, params: Mapping[str, Any]) -> None:
        """Update the parameters of a top's layer."""
        self[name]._update(params)

    def to_proto(self) -> Any:
        """Return the NetParameter, its layers in the order in which the tops were named.

        Raises:
            NetError: the layer's type has no such parameter, or its value is wrong.
        """
        for name, top in self.tops.items():
            if not isinstance(top, (Top, Function)):
                raise NetError(
                    f"'{name}' of the NetSpec must be one top; a layer of several gives a tuple: "
                    f"n.data, n.label = …. Received: {type(top).__name__}"
                )
        writer = _Writer({top: name for name, top in self.tops.items()})
        for top in self.tops.values():
            top._to_proto(writer)
        return caffe_pb2.NetParameter(layer=list(writer.layers.values()))


# ---- L and P


class Layers:
    """``L``: a function for each layer type."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return layer_function(name)


def layer_function(type_name: str) -> Callable[..., Any]:
    """Return the function that makes a layer of a type.

    It takes the bottoms, and as keywords the layer's parameters, ``ntop`` (1 unless given) and
    ``in_place``; it returns the top, a tuple of several, or the layer where it has none. Types that
    are not known here may be used too.

    Raises:
        AttributeError: the name does not begin with a capital, as layer types do.
    """
    if not type_name[:1].isupper():
        raise AttributeError(f"L has no '{type_name}': a layer type begins with a capital")

    def layer(*bottoms: Top, **params: Any) -> Any:
        fn = Function(type_name, bottoms, params)
        if fn.ntop == 0:
            return fn
        return fn.tops[0] if fn.ntop == 1 else fn.tops

    layer.__name__ = layer.__qualname__ = type_name
    return layer


class Parameters:
    """``P``: the enums of the types' parameters, such as ``P.Pooling.MAX``."""

    def __getattr__(self, name: str) -> Any:
        message = getattr(caffe_pb2, f"{name}Parameter", None)
        if message is None:
            raise AttributeError(
                f"P has no '{name}'.{did_you_mean(name, param_name_dict())} There is one for each "
                "message of caffe.proto whose name ends with 'Parameter'"
            )
        return message


layers = Layers()
params = Parameters()
