"""Checks of a net's structure: what cannot be built, and what has no effect."""

from __future__ import annotations

from ..analysis.reading import Target
from ..analysis.view import Node, View
from ..net.queries import called, share_samples, shown, source
from ..proto import caffe_pb2 as pb
from ..proto import text
from ..proto.filter import asked_for, is_included
from .findings import Occurrence, Occurrences, net_check, target_check

_NOTICEABLE_DROPOUT = 0.9
_SCORED = {
    *("SoftmaxWithLoss", "DistillingLoss", "DecoupledDistillingLoss", "DISTLoss"),
    *("KnowledgeDistillation", "TempSoftmaxCrossEntropyLoss"),
}


@net_check(
    "structure",
    why="The net cannot be built: training, testing and export fail.",
    do="Correct the layer as the message says. Register a type of your own with -layers FILE; give "
    "-stage for a layer that only some stages have.",
)
def cannot_be_built(view: View) -> Occurrences:
    """A layer, or the net as a whole, that cannot be built."""
    for proto, error in view.inference.problems:
        where = error.where or getattr(proto, "source_line", "") or str(view.file)
        by_guess = not view.inference.supposed.isdisjoint(getattr(proto, "bottom", ()))
        guess = ". The shape of its labels is only assumed" if by_guess else ""
        message = error.message.partition(" Known types: ")[0]
        yield Occurrence("warning" if by_guess else "error", where, message + guess)


@net_check(
    "structure",
    why="A prototxt must not run code by itself, so the tops' shapes are not known; layers that "
    "depend on them are left out.",
    do="-python_layers, if you trust the file and the module.",
)
def python_layer(view: View) -> Occurrences:
    """A Python layer, which is not run."""
    for proto in view.inference.unrun:
        param = proto.python_param
        fact = f"{called(proto)}: {param.module}.{param.layer} is not run"
        yield Occurrence("note", proto.source_line, fact)


@target_check(
    "structure",
    why="It can be built only together with the nets whose blobs it names.",
    do="Examine the solver that names it.",
)
def part_of_a_net(target: Target) -> Occurrences:
    """A net without data and inputs, which other files provide."""
    for name in target.parts:
        yield Occurrence(
            "note", str(target.file), f"net '{name}' has neither data nor inputs of its own"
        )


@net_check(
    "structure",
    why="The shapes come from the data; without it this report uses assumed shapes, or leaves out "
    "what depends on them.",
    do="Provide the data, or give the samples' shape, as -input_shape data=1,3,28,28 (batch, "
    "channels, height, width).",
)
def data_absent(view: View) -> Occurrences:
    """A data layer whose database, list or files are missing."""
    for absent in view.inference.absent:
        taken = " x ".join(map(str, absent.taken or ()))
        supposed = f"Assumed: {taken}, {absent.reason}" if taken else "No shape can be assumed"
        severity = "note" if absent.reason.startswith("as -input_shape") else "warning"
        fact = absent.error.message.removeprefix(f"{called(absent.proto)}: ").rstrip(".")
        yield Occurrence(
            severity, absent.proto.source_line, f"{called(absent.proto)}: {fact}. {supposed}"
        )


@target_check(
    "structure",
    why="It is read here, but newer versions of Caffe's tools and other programs may refuse it.",
    do="caffe_kd upgrade_net_proto_text IN OUT (or upgrade_solver_proto_text) converts it.",
)
def old_format(target: Target) -> Occurrences:
    """A file in an older format."""
    for line in dict.fromkeys(target.upgrades.lines):
        what = line.removeprefix("Attempting to upgrade input file specified using deprecated ")
        if what != line and not what.startswith("input fields"):
            yield Occurrence(
                "note", what.rpartition(": ")[2], f"written with {what.rpartition(': ')[0]}"
            )
    for problem in target.upgrades.problems:
        yield Occurrence("warning", str(target.file), problem)


@net_check(
    "structure",
    why="It takes time and memory in every pass without effect.",
    do="Leave out the layers that only lead there, or end them in a Silence layer if it "
    "is intended.",
)
def unused_blob(view: View) -> Occurrences:
    """An unused blob in a net that is trained."""
    if not view.learns:
        return
    last = {top: node for node in view.nodes for top in node.proto.top}
    for top, node in last.items():
        taken = any(top in child.proto.bottom for child in node.children)
        if taken or node.is_loss or any(view.loss_weights(node)):
            continue
        if node.type not in ("Accuracy", "LearningRate") and not view.of_teacher(node):
            yield Occurrence(
                "note", node.location, f"{node.called}: no layer takes its top '{top}'"
            )


@net_check(
    "structure",
    why="A loss of weight 0 is computed and logged, but nothing learns from it.",
    do="Give it a loss_weight, or leave the layer out of TRAIN.",
)
def zero_loss_weight(view: View) -> Occurrences:
    """A loss whose weight is 0 while the net is trained."""
    if not view.is_training:
        return
    for node in view.nodes:
        if node.is_loss and not any(view.loss_weights(node)) and not view.of_teacher(node):
            yield Occurrence("warning", node.location, f"{node.called}: loss_weight is 0 in TRAIN")


@net_check(
    "structure",
    why="It measures single batches of training data, with dropout active, and costs time in every "
    "iteration; it says little about the net's accuracy.",
    do="include { phase: TEST }.",
)
def accuracy_in_train(view: View) -> Occurrences:
    """An Accuracy layer in TRAIN."""
    if view.learns:
        for node in view.nodes:
            if node.type == "Accuracy":
                yield Occurrence("note", node.location, f"{node.called} runs in TRAIN")


@net_check(
    "structure",
    why="The loss computes the softmax of its bottom itself. Of probabilities it is nearly "
    "uniform: the gradients are small and the loss cannot approach 0.",
    do="Give the loss the logits, the bottom of the Softmax; keep the Softmax for deployment.",
)
def softmax_twice(view: View) -> Occurrences:
    """A Softmax before a loss that includes one."""
    for node in view.nodes:
        if node.type not in _SCORED:
            continue
        for index in range(1 if node.type == "SoftmaxWithLoss" else 2):
            before = node.source(index)
            if before is not None and before.type in ("Softmax", "SoftmaxWithTemperature"):
                bottom = node.proto.bottom[index]
                yield Occurrence(
                    "warning",
                    node.location,
                    f"{node.called}: its bottom '{bottom}' is the softmax of {before.called}",
                )


@target_check(
    "structure",
    why="The state in a net overrides the solver's: the net is trained, or tested, as if in the "
    "other phase, with other data layers, BatchNorm and Dropout.",
    do="Remove the phase from the state; training and testing set it.",
)
def state_overrides_phase(target: Target) -> Occurrences:
    """A ``state`` with a phase in a net."""
    net = target.student
    if target.solver is not None and net is not None and net.state.HasField("phase"):
        phase = pb.Phase.Name(net.state.phase)
        where = text.locate(target.views[0].file or target.file, "state")
        yield Occurrence("warning", where, f"the net's own state has phase: {phase}")


@target_check(
    "structure",
    why="The test measures how well the net has memorized its training data, not how it performs "
    "on new samples.",
    do="Hold out samples for testing, in a data layer with include { phase: TEST }.",
)
def same_data_in_both_phases(target: Target) -> Occurrences:
    """One database for TRAIN and TEST."""
    train = {source(n.proto): n for v in target.views if v.learns for n in v.data}
    for view in target.views:
        for node in view.data if not view.is_training and view.is_meant else ():
            path = source(node.proto)
            if (
                path
                and path in train
                and share_samples(train[path].proto, node.proto)
                and any(n.type == "Accuracy" or n.is_loss for n in view.nodes)
            ):
                fact = f"{node.called}: TEST reads '{path}', as TRAIN does"
                yield Occurrence("warning", node.location, fact)


@target_check(
    "structure",
    why="In TEST the net gets values in another range than in training.",
    do="Write the same scale and mean in both; mirror and the crop's position may differ.",
)
def transforms_differ(target: Target) -> Occurrences:
    """Scale or mean that differ between TRAIN and TEST."""
    train = {t: n for v in target.views if v.is_training for n in v.data for t in n.proto.top[:1]}
    for view in target.views:
        for node in view.data if not view.is_training else ():
            twin = train.get(node.proto.top[0]) if node.proto.top else None
            if twin is None or twin.type != node.type:
                continue
            here, there = node.proto.transform_param, twin.proto.transform_param
            for name in ("scale", "mean_file", "mean_value"):
                mine, other = getattr(here, name), getattr(there, name)
                if mine != other:
                    fact = f"{node.called}: {name} is {shown(mine)} in TEST, in TRAIN "
                    yield Occurrence(
                        "warning", node.location, f"{fact}{shown(other)} ({twin.location})"
                    )


@net_check(
    "structure",
    why="Weights are matched by name, and the first layer of a name gets them: the other starts "
    "from its filler each time.",
    do="Give each layer its own name.",
)
def same_layer_name(view: View) -> Occurrences:
    """Two layers of one name, both with parameters."""
    first: dict[str, Node] = {}
    for node in view.nodes:
        if node.has_blobs:
            other = first.setdefault(node.proto.name, node)
            if other is not node:
                yield Occurrence(
                    "warning", node.location, f"{node.called} has the name of {other.location}"
                )


@net_check(
    "structure",
    why="A value is dropped with probability dropout_ratio: 0 drops none, and near 1 almost all.",
    do="0.5 is usual after fully connected layers, less after convolutions.",
)
def dropout_ratio(view: View) -> Occurrences:
    """A Dropout that drops nothing or nearly all."""
    if not view.learns:
        for node in view.nodes:
            ratio = node.proto.dropout_param.dropout_ratio
            if node.type == "Dropout" and not 0 <= ratio < 1:
                fact = f"{node.called}: dropout_ratio is {ratio:g}; in TEST the layer does nothing"
                yield Occurrence("note", node.location, fact)
        return
    for node in view.nodes:
        ratio = node.proto.dropout_param.dropout_ratio
        if node.type == "Dropout" and ratio == 0:
            yield Occurrence("note", node.location, f"{node.called}: dropout_ratio is 0")
        elif node.type == "Dropout" and ratio >= _NOTICEABLE_DROPOUT:
            yield Occurrence("warning", node.location, f"{node.called}: dropout_ratio is {ratio:g}")


@net_check(
    "structure",
    why="Scores that are zeroed at random are used as scores: the loss is computed from outputs "
    "that are not the net's.",
    do="Put the Dropout before the layer that computes the scores.",
)
def dropout_on_scores(view: View) -> Occurrences:
    """A Dropout between the scores and the loss."""
    if not view.learns:
        return
    for node in view.nodes:
        before = node.parents[0] if node.parents else None
        while before is not None and before.type == "Split":
            before = before.parents[0] if before.parents else None
        if node.is_loss and before is not None and before.type == "Dropout":
            yield Occurrence(
                "warning", before.location, f"{before.called}: its top goes to {node.called}"
            )


@net_check(
    "structure",
    why="BatchNorm has no learned scale and offset: each channel keeps mean 0 and variance 1.",
    do="Add a Scale layer with scale_param { bias_term: true } after it.",
)
def batch_norm_without_scale(view: View) -> Occurrences:
    """A BatchNorm that no Scale follows."""
    if not view.learns:
        return
    for node in view.nodes:
        if node.type == "BatchNorm" and not any(c.type == "Scale" for c in node.children):
            yield Occurrence("note", node.location, f"{node.called}: no Scale layer follows")


@target_check(
    "structure",
    why="A layer with include rules is in the net only if one of them is met.",
    do="Give the stage or level, with -stage and -level or in the solver's train_state and "
    "test_state; or leave the layer out.",
)
def never_included(target: Target) -> Occurrences:
    """A layer whose include rules none of the nets meets."""
    if not target.views or target.unplanned is not None:
        return
    states = [view.param.state for view in target.views]
    states += [pb.NetState(phase=phase) for phase in (pb.TRAIN, pb.TEST)]
    for layer in target.layers:
        if layer.include and not any(is_included(layer, state) for state in states):
            yield Occurrence(
                "note", layer.source_line, f"{called(layer)} is in no phase: {asked_for(layer)}"
            )
