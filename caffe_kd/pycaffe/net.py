"""Net: pycaffe's Net, with blobs and parameters to read and write."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import NetError, UsageError, did_you_mean
from ..layers.data.memory_data import MemoryData
from ..layers.utility.python import Python
from ..net import Net as CoreNet
from ..net import load_net
from ..net.weights import lacking
from ..proto import caffe_pb2 as pb
from ..proto.binary import write_weights, write_weights_hdf5
from . import mode
from .blob import BlobVec
from .glog import LOG
from .graph import Graph
from .nodes import Node

Array = NDArray[Any]
Path = str | PathLike[str]


class NetLayer:
    """A layer of a net, as scripts see it.

    Attributes:
        type: the layer's type, such as ``Convolution``.
    """

    def __init__(self, graph: Graph, node: Node) -> None:
        self.type = node.type
        self.name = node.name
        self._graph, self._node = graph, node

    @property
    def blobs(self) -> BlobVec:
        """The parameter blobs in Caffe's order."""
        return _parameters(self._graph, self._node)

    def __repr__(self) -> str:
        return f"<Layer '{self.name}' ({self.type})>"


def _parameters(graph: Graph, node: Node) -> BlobVec:
    return BlobVec(graph.parameter_blobs(node))


_UNTIL_2014 = {
    "set_phase_test": "an argument: caffe.Net(FILE, WEIGHTS, caffe.TEST)",
    "set_phase_train": "an argument: caffe.Net(FILE, WEIGHTS, caffe.TRAIN)",
    "set_mode_cpu": "caffe.set_mode_cpu()",
    "set_mode_gpu": "caffe.set_mode_gpu()",
    "set_device": "caffe.set_device(NUMBER)",
    **{
        f"set_{name}": f"that of caffe.io.Transformer: transformer.set_{name}(INPUT, VALUE)"
        for name in ("mean", "raw_scale", "input_scale", "channel_swap")
    },
}


class Net:
    """A net of a prototxt, in one phase, that runs layer by layer.

    ``Net(file, phase, level=0, stages=None, weights=None)``, or as older scripts have it
    ``Net(file, weights, phase)``.

    Every blob's ``data`` and ``diff`` may be read and written at any time, and a pass may begin and
    end at any layer. A backward pass overwrites the diffs of blobs and adds to those of parameters;
    blobs that need no gradient keep theirs. A blob that several layers take has a copy for each,
    ``<blob>_<layer>_<i>_split_<j>``, where ``<layer>`` makes it as top ``<i>``.

    Args:
        network_file: the prototxt.
        phase: ``TRAIN`` or ``TEST``.
        level: the level for the layers' include and exclude rules.
        stages: the stages for them.
        weights: a ``.caffemodel`` or ``.caffemodel.h5`` to start from.

    Raises:
        UsageError: an argument is not a phase, level, list of stages or path.
        CaffeKDError: a file is missing or wrong.

    Source: pycaffe's Net.
    """

    def __init__(
        self,
        network_file: Path,
        phase: int | Path | None = None,
        level: int | None = None,
        stages: Sequence[str] | None = None,
        weights: Path | None = None,
    ) -> None:
        if isinstance(phase, (str, PathLike)):  # the older order: file, weights, phase
            if weights is not None:
                raise UsageError(f"Net takes weights only once. Received: {phase}, {weights}")
            weights, phase, level = phase, level, None
        if phase is None:
            raise UsageError(
                "Net needs a phase: caffe.Net(FILE, caffe.TEST), or with weights "
                "caffe.Net(FILE, WEIGHTS, caffe.TEST)"
            )
        if type(phase) is not int or phase not in (pb.TRAIN, pb.TEST):
            raise UsageError(
                f"phase must be caffe.TRAIN ({pb.TRAIN}) or caffe.TEST ({pb.TEST}). "
                f"Received: {phase!r}"
            )
        if isinstance(stages, str):
            raise UsageError(f"stages must be a list of names, as ['{stages}']")
        mode.seed_once()
        core = load_net(fspath(network_file), phase, level or 0, list(stages or ()))
        core.to_device(mode.device(), channels_last=any(p.blob.dim() == 4 for p in core.params))
        core.context.exact_sums = mode.exact_sums()
        if core.param.force_backward:
            _let_all_have_gradients(core)
        self._begin(core)
        if weights is not None:
            self.copy_from(weights)

    def __getattr__(self, name: str) -> Any:
        """Report the replacement of an attribute that nets had until 2014."""
        now = _UNTIL_2014.get(name)
        message = f"'{type(self).__name__}' object has no attribute '{name}'"
        if now is not None:
            message += f", since 2014. Now it is {now}"
        raise AttributeError(message, name=name, obj=self)

    @classmethod
    def over(cls, core: CoreNet) -> Net:
        """Return the wrapper of a net that was built, and may be run, elsewhere."""
        net = cls.__new__(cls)
        net._begin(core)
        return net

    def _begin(self, core: CoreNet) -> None:
        self._graph = graph = Graph(core)
        self._blobs = graph.blobs
        self._blob_names = graph.names
        self._layer_names = [node.name for node in graph.nodes]
        names = graph.names
        self.inputs = list(core.inputs)
        self.outputs = graph.outputs()
        self._inputs = [graph.by_name[name] for name in self.inputs]
        self._outputs = [graph.by_name[name] for name in self.outputs]
        self.name = core.name
        self.layers = [_layer(graph, node) for node in graph.nodes]
        self.layer_dict = OrderedDict(zip(self._layer_names, self.layers, strict=True))
        self.blobs = OrderedDict(zip(names, graph.blobs, strict=True))
        self.top_names = self._names_by_layer(self._top_ids)
        self.bottom_names = self._names_by_layer(self._bottom_ids)

    def _names_by_layer(self, ids: Callable[[int], list[int]]) -> OrderedDict[str, list[str]]:
        return OrderedDict(
            (name, [self._blob_names[b] for b in ids(i)])
            for i, name in enumerate(self._layer_names)
        )

    def _top_ids(self, layer: int) -> list[int]:
        return list(self._graph.nodes[layer].tops)

    def _bottom_ids(self, layer: int) -> list[int]:
        return list(self._graph.nodes[layer].bottoms)

    @property
    def _blob_loss_weights(self) -> list[float]:
        return self._graph.loss_weights()

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The weight of each blob in the loss: 0 for most."""
        return OrderedDict(zip(self._blob_names, self._blob_loss_weights, strict=True))

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """The parameter blobs of each layer that has some."""
        nodes = self._graph.nodes
        return OrderedDict((p.name, _parameters(self._graph, p)) for p in nodes if p.params)

    # ---- passes

    def _forward(self, start: int, end: int) -> float:
        return self._graph.forward(start, end)

    def _backward(self, start: int, end: int) -> None:
        self._graph.backward(start, end)

    def forward(
        self,
        blobs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: Array,
    ) -> dict[str, Array]:
        """Run forward.

        Args:
            blobs: blobs to return besides the outputs.
            start: the layer to begin with; the first one if not given.
            end: the layer to end with, whose tops are then the outputs; the last one if not given.
            **kwargs: a new value for each input, of its shape.

        Returns:
            The data of the output blobs by name: views, which the next pass overwrites.

        Raises:
            NetError: a layer or blob is unknown, or the values don't fit the inputs.
        """
        first = 0 if start is None else self._graph.index_of(start)
        last = len(self.layers) - 1 if end is None else self._graph.index_of(end)
        outputs = self.outputs if end is None else self.top_names[end]
        wanted = self._known({*outputs, *(blobs or ())})
        if kwargs:
            self._check_names(kwargs, self.inputs, "Input blob arguments do not match net inputs.")
            for name, value in kwargs.items():
                self._write(name, value, self.blobs[name].data, "Input is not batch sized")
        self._forward(first, last)
        return {name: self.blobs[name].data for name in wanted}

    def backward(
        self,
        diffs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **kwargs: Array,
    ) -> dict[str, Array]:
        """Run backward, from the diffs of the outputs; that of a loss is its weight.

        Args:
            diffs: blobs whose diff to return besides the inputs'.
            start: the layer to begin with; the last one if not given.
            end: the layer to end with, whose bottoms' diffs are then returned; the first one if not
                given.
            **kwargs: a new diff for each output, of its shape.

        Returns:
            The diffs of the input blobs by name: views, which the next pass overwrites.

        Raises:
            NetError: a layer or blob is unknown, or the diffs don't fit the outputs.
        """
        first = len(self.layers) - 1 if start is None else self._graph.index_of(start)
        last = 0 if end is None else self._graph.index_of(end)
        outputs = self.inputs if end is None else self.bottom_names[end]
        wanted = self._known({*outputs, *(diffs or ())})
        if kwargs:
            self._check_names(kwargs, self.outputs, "Top diff arguments do not match net outputs.")
            for name, value in kwargs.items():
                self._write(name, value, self.blobs[name].diff, "Diff is not batch sized")
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def _known(self, names: Iterable[str]) -> Iterable[str]:
        for name in names:
            if name not in self.blobs:
                raise NetError(f"the net has no blob '{name}'.{did_you_mean(name, self.blobs)}")
        return names

    @staticmethod
    def _check_names(given: Iterable[str], wanted: Iterable[str], words: str) -> None:
        if set(given) != set(wanted):
            raise NetError(
                f"{words} Wanted: {', '.join(sorted(wanted)) or 'none'}. "
                f"Received: {', '.join(sorted(given))}"
            )

    @staticmethod
    def _write(name: str, value: Array, target: Array, words: str) -> None:
        value = np.asarray(value)
        if value.shape[:1] != target.shape[:1]:
            raise NetError(
                f"{words}: blob '{name}' has shape {target.shape}; reshape it first to change "
                f"that. Received: {value.shape}"
            )
        try:
            target[...] = value
        except ValueError:
            raise NetError(
                f"blob '{name}' has shape {target.shape}. Received: {value.shape}"
            ) from None

    def forward_all(self, blobs: Iterable[str] | None = None, **kwargs: Array) -> dict[str, Array]:
        """Run forward over any number of samples, in batches.

        Args:
            blobs: blobs to return besides the outputs.
            **kwargs: for each input, the values of all samples.

        Returns:
            The data of the output blobs for all samples by name.
        """
        parts: dict[str, list[Array]] = {n: [] for n in {*self.outputs, *(blobs or ())}}
        for batch in self._batch(kwargs):
            for name, values in self.forward(blobs, None, None, **batch).items():
                parts[name].extend(np.array(values, ndmin=1))
        return _without_padding(parts, kwargs)

    def forward_backward_all(
        self,
        blobs: Iterable[str] | None = None,
        diffs: Iterable[str] | None = None,
        **kwargs: Array,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run forward and backward over any number of samples, in batches.

        Args:
            blobs: blobs to return besides the outputs.
            diffs: blobs whose diff to return besides the inputs'.
            **kwargs: for inputs the values, for outputs the diffs of all samples.

        Returns:
            Data and diffs by name for all samples.
        """
        outs: dict[str, list[Array]] = {n: [] for n in {*self.outputs, *(blobs or ())}}
        grads: dict[str, list[Array]] = {n: [] for n in {*self.inputs, *(diffs or ())}}
        forward = self._batch({n: kwargs[n] for n in self.inputs if n in kwargs})
        backward = self._batch({n: kwargs[n] for n in self.outputs if n in kwargs})
        for values, given in itertools.zip_longest(forward, backward):
            for name, array in self.forward(blobs, None, None, **(values or {})).items():
                outs[name].extend(np.array(array, ndmin=1))
            for name, array in self.backward(diffs, None, None, **(given or {})).items():
                grads[name].extend(np.array(array, ndmin=1))
        return _without_padding(outs, kwargs), _without_padding(grads, kwargs)

    def _batch(self, blobs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Cut arrays into batches of the net's size; the last one is padded with zeros."""
        if not blobs:
            return
        total = len(next(iter(blobs.values())))
        size = next(iter(self.blobs.values())).shape[0]
        for begin in range(0, total, size):
            batch = {name: np.asarray(a[begin : begin + size]) for name, a in blobs.items()}
            missing = begin + size - total
            if missing > 0:
                batch = {
                    name: np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)])
                    for name, a in batch.items()
                }
            yield batch

    def set_input_arrays(self, data: Array, labels: Array) -> None:
        """Give the net's MemoryData layer, which must come first, its samples.

        Raises:
            NetError: the first layer is not MemoryData, or the arrays don't fit it.
        """
        layer = self._graph.nodes[0].layer
        if not isinstance(layer, MemoryData):
            raise NetError(
                "set_input_arrays may only be called if the first layer is a MemoryDataLayer. "
                f"Received: {self._graph.nodes[0].type}"
            )
        layer.set(data, labels)

    def reshape(self) -> None:
        """Infer the shapes of all blobs from those of the inputs."""
        self._graph.reshape()

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to 0."""
        self._graph.clear_param_diffs()

    # ---- weights

    def copy_from(self, path: Path) -> None:
        """Copy weights into the layers of the same name.

        Args:
            path: a ``.caffemodel`` or ``.caffemodel.h5``; recognized by its content.

        Raises:
            WeightsError: a layer's blobs differ in number or shape.
            ParseError: the file is missing or damaged.
        """
        net = self._graph.net
        copied = net.load_weights(fspath(path))
        for name in copied.ignored:
            if name not in self.layer_dict:
                LOG.info(f"Ignoring source layer {name}")
        if copied.rounded:
            LOG.info(copied.rounding)
        if copied.misfit is not None:
            LOG.warning(copied.misfit)
        elif net.phase == pb.TEST and (sentence := lacking(net)) is not None:
            LOG.warning(sentence)
        self._graph.push_weights()

    def load_hdf5(self, path: Path) -> None:
        """Copy weights from a ``.caffemodel.h5``; see ``copy_from``."""
        self.copy_from(path)

    def share_with(self, other: Net) -> None:
        """Use the parameters of another net's layers of the same name; the diffs stay separate.

        Raises:
            NetError: a shared layer's blobs differ in shape.
        """
        other._graph.pull_weights()
        self._graph.net.share_weights(other._graph.net)

    def save(self, path: Path) -> None:
        """Write the layers and their weights as a ``.caffemodel``."""
        self._graph.pull_weights()
        write_weights(fspath(path), self._definition(), self._graph.net.weights())

    def save_hdf5(self, path: Path) -> None:
        """Write the weights as a ``.caffemodel.h5``; a shared one only at its owner."""
        self._graph.pull_weights()
        core = self._graph.net
        owned = {(p.layer.name, p.index) for p in core.params}
        weights = {
            name: [b if (name, i) in owned else None for i, b in enumerate(blobs)]
            for name, blobs in core.weights().items()
        }
        write_weights_hdf5(fspath(path), self._definition(), weights)

    def _definition(self) -> Any:
        param = pb.NetParameter(name=self.name)  # Caffe writes only name and layers
        param.layer.extend(self._graph.param.layer)
        return param

    # ---- hooks

    def before_forward(self, hook: Callable[[int], object]) -> None:
        """Call ``hook`` with the number of each layer before it runs forward."""
        self._graph.before_forward.append(hook)

    def after_forward(self, hook: Callable[[int], object]) -> None:
        """Call ``hook`` with the number of each layer after it has run forward."""
        self._graph.after_forward.append(hook)

    def before_backward(self, hook: Callable[[int], object]) -> None:
        """Call ``hook`` with the number of each layer before it runs backward."""
        self._graph.before_backward.append(hook)

    def after_backward(self, hook: Callable[[int], object]) -> None:
        """Call ``hook`` with the number of each layer after it has run backward."""
        self._graph.after_backward.append(hook)

    def __repr__(self) -> str:
        return f"<Net '{self.name}': {len(self.layers)} layers>"


def _layer(graph: Graph, node: Node) -> Any:
    """Return what scripts find in ``net.layers``: for a Python layer the user's object."""
    return node.layer.user_layer if isinstance(node.layer, Python) else NetLayer(graph, node)


def _let_all_have_gradients(core: CoreNet) -> None:
    """Give parameters with lr_mult 0 gradients too, as ``force_backward`` does."""
    for param in core.params:
        if param.layer.type != "BatchNorm":  # its statistics take no gradient
            param.blob.requires_grad_()


def _without_padding(
    parts: Mapping[str, Sequence[Array]], given: Mapping[str, Array]
) -> dict[str, Array]:
    wanted = len(next(iter(given.values()))) if given else None
    return {name: np.asarray(values)[:wanted] for name, values in parts.items()}
