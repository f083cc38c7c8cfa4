"""Upgrades nets and solvers of any format version to the current one.

The steps are Caffe's, in its order, each from message to message; before and after them the fields
that only forks know are dropped or moved where that changes no result (``foreign.py``):

1. V0 layers (2013) become V1 layers (2014), padding layers are merged into their consumers;
2. the data layers' scale, mean_file, crop_size and mirror move to transform_param;
3. V1 layers become current ones;
4. input, input_dim and input_shape become an Input layer in front;
5. a BatchNorm with three ``param`` gets lr_mult and decay_mult 0 in each;
6. types of forks that prune become the plain ones (``pruned_layers.py``);

and a solver's solver_type becomes its type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core.errors import NetError, SolverError
from . import caffe_pb2 as pb
from . import foreign, pruned_layers, text, upgrade_v0, upgrade_v1
from .strings import check_strings

_LEGACY_DIMS = 4  # input_dim lists num, channels, height and width of each input

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


@dataclass
class Notes:
    """What was upgraded, for the log.

    Attributes:
        lines: the steps taken, in Caffe's words, and the problems.
        problems: what has no equivalent in the current format and was left out.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def step(self, what: str, name: str) -> None:
        """Note a step that is taken on a file."""
        self.lines.append(
            f"Attempting to upgrade input file specified using deprecated {what}: {name}"
        )

    def done(self, what: str, problems: list[str] | None = None) -> None:
        """Note the result of a step."""
        if not problems:
            self.lines.append(f"Successfully upgraded file specified using deprecated {what}")
            return
        self.problems += problems
        self.lines += [f"Warning: {problem}" for problem in problems]
        self.lines.append(
            f"Warning: had one or more problems upgrading {what} (see above); continuing anyway."
        )


def needs_upgrade(net: Any) -> bool:
    """Return whether a NetParameter has anything in an old format."""
    return bool(
        net.layers
        or net.input
        or _statistics_to_fix(net)
        or pruned_layers.has_pruned(net)
        or foreign.can_settle(net)
    )


def upgrade_net(net: Any, name: str, notes: Notes | None = None) -> Any:
    """Return a net in the current format: a new message, or the same if it is current.

    Args:
        net: a NetParameter of any format version, from a prototxt or with blobs.
        name: the file it was read from, for messages.
        notes: collects what was done.

    Raises:
        NetError: the net mixes ``layer`` and ``layers``, has a layer type that its format does not
            know, padding layers before something other than a convolution or pooling, or inputs
            without all their dims.
        ParseError: a name has control characters, or is too long.

    Source: Caffe's ``UpgradeNetAsNeeded``. It writes layers of 2014 among those of 2013
    without their settings; here they keep them.
    """
    check_strings(net, name)
    if not needs_upgrade(net):
        return net
    notes = Notes() if notes is None else notes
    upgraded = pb.NetParameter()
    upgraded.CopyFrom(net)
    notes.lines += foreign.settle(upgraded)
    if upgrade_v0.needs_upgrade(upgraded):
        notes.step("V0LayerParameter", name)
        notes.done("V0LayerParameter", upgrade_v0.upgrade(upgraded))
    if upgrade_v1.needs_transform_upgrade(upgraded):
        notes.step("transformation parameters", name)
        upgrade_v1.upgrade_transform(upgraded)
        notes.done("data transformation parameters.")
    if upgraded.layers:
        notes.step("V1LayerParameter", name)
        notes.done("V1LayerParameter", upgrade_v1.upgrade(upgraded))
        notes.lines += foreign.settle(upgraded)  # blocks of the upgraded layers
    if upgraded.input:
        notes.step("input fields", name)
        _upgrade_input(upgraded, name, notes)
        notes.done("input fields.")
    unfixed = _statistics_to_fix(upgraded)
    if unfixed:
        notes.lines.append(
            f"Attempting to upgrade batch norm layers using deprecated params: {name}"
        )
        for layer in unfixed:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
        notes.lines.append("Successfully upgraded batch norm layers using deprecated params.")
    notes.lines += pruned_layers.upgrade(upgraded)
    return upgraded


def upgrade_solver(solver: Any, name: str, notes: Notes | None = None) -> Any:
    """Return a solver in the current format: a new message, or the same if it is current.

    Nets written inside the solver are upgraded too, which Caffe does not do.

    Args:
        solver: a SolverParameter.
        name: the file it was read from, for messages.
        notes: collects what was done.

    Raises:
        SolverError: both solver_type and type are given.
        NetError: a net inside cannot be upgraded; see ``upgrade_net``.
        ParseError: a name has control characters, or is too long.

    Source: Caffe's ``UpgradeSolverAsNeeded``.
    """
    check_strings(solver, name)
    nets = [getattr(solver, f) for f in ("net_param", "train_net_param") if solver.HasField(f)]
    if (
        not solver.HasField("solver_type")
        and not any(needs_upgrade(net) for net in [*nets, *solver.test_net_param])
        and not foreign.can_settle(solver)
    ):
        return solver
    notes = Notes() if notes is None else notes
    upgraded = pb.SolverParameter()
    upgraded.CopyFrom(solver)
    notes.lines += foreign.settle(upgraded)
    if upgraded.HasField("solver_type"):
        _upgrade_solver_type(upgraded, name, notes)
    for field_name in ("net_param", "train_net_param"):
        if upgraded.HasField(field_name):
            net = getattr(upgraded, field_name)
            net.CopyFrom(upgrade_net(net, name, notes))
    for net in upgraded.test_net_param:
        net.CopyFrom(upgrade_net(net, name, notes))
    return upgraded


def _upgrade_solver_type(solver: Any, name: str, notes: Notes) -> None:
    if solver.HasField("type"):
        raise SolverError(
            "Failed to upgrade solver: old solver_type field (enum) and new type field (string) "
            f'cannot be both specified in solver proto text. Keep type: "{solver.type}"',
            text.locate(name, "solver_type"),
        )
    notes.step("'solver_type' field (enum)", name)
    number = solver.solver_type
    solver.type = _SOLVER_TYPES[pb.SolverParameter.SolverType.Name(number)]
    solver.ClearField("solver_type")
    notes.done("'solver_type' field (enum) to 'type' field (string).")


def _upgrade_input(net: Any, name: str, notes: Notes) -> None:
    """Replace a net's input fields by an Input layer in front.

    Inputs without any dims, as in weights files, are dropped.
    """
    inputs, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    for field_name in ("input", "input_shape", "input_dim"):
        net.ClearField(field_name)
    if not shapes and not dims:
        return
    # Only text has line numbers; a binary file may also be large.
    from_text = any(layer.source_line for layer in net.layer)
    where = text.locate(name, "input") if from_text else name
    if shapes:
        given, wanted, what = len(shapes), len(inputs), "input_shape, one per input"
        if dims:
            notes.lines.append(
                f"Warning: {where}: input_dim is ignored because input_shape is given"
            )
    else:
        given, wanted = len(dims), _LEGACY_DIMS * len(inputs)
        what = "input_dim, four per input (N, C, H, W)"
        starts = range(0, wanted, _LEGACY_DIMS)
        shapes = [pb.BlobShape(dim=dims[i : i + _LEGACY_DIMS]) for i in starts]
    if given < wanted:
        fact = f"{len(inputs)} input need {wanted} {what}. Received: {given}"
        raise NetError(fact, where)
    if given > wanted:
        notes.lines.append(
            f"Warning: {where}: {len(inputs)} input take {wanted} {what}; {given - wanted} more "
            "are ignored"
        )
    layer = pb.LayerParameter(name="input", type="Input", top=inputs)
    layer.input_param.shape.extend(shapes[:wanted])
    if from_text:
        layer.source_line = where
    net.layer.insert(0, layer)


def _statistics_to_fix(net: Any) -> list[Any]:
    """Return the BatchNorm layers whose three statistics would be trained."""
    return [
        layer
        for layer in net.layer
        if layer.type == "BatchNorm"
        and len(layer.param) == 3
        and any(s.lr_mult != 0 or s.decay_mult != 0 for s in layer.param)
    ]
