"""Keeps the layers whose include and exclude rules the net's state satisfies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.errors import NetError, did_you_mean
from . import caffe_pb2 as pb
from . import foreign


def meets(state: Any, rule: Any) -> bool:
    """Return whether a state meets a rule: phase, levels, every stage and no forbidden stage."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)


def is_included(layer: Any, state: Any) -> bool:
    """Return whether a layer belongs to the net in this state.

    A layer without rules always does; one with ``include`` does if any of its rules is met; one
    with ``exclude`` does if none is.

    Raises:
        NetError: the layer has both kinds of rules.
    """
    if layer.include and layer.exclude:
        raise NetError(
            f"layer '{layer.name}': specify either include rules or exclude rules; not both",
            layer.source_line or None,
        )
    for rule in layer.exclude:  # a partly read rule excludes too much; see Net for include
        foreign.check(rule, f"layer '{layer.name}' ({layer.type}): exclude", NetError)
    if layer.include:
        return any(meets(state, rule) for rule in layer.include)
    return not any(meets(state, rule) for rule in layer.exclude)


def idle_stages(net: Any, stages: Iterable[str]) -> list[str]:
    """Return a sentence for each stage of a state that no rule of the net's layers names.

    Args:
        net: the NetParameter with the layers of all states.
        stages: those of a state.
    """
    rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    known = dict.fromkeys(name for rule in rules for name in (*rule.stage, *rule.not_stage))
    return [
        f"no layer's include or exclude names the stage '{stage}', so it changes nothing."
        f"{did_you_mean(stage, known)} The layers name: {', '.join(known) or 'none'}"
        for stage in dict.fromkeys(stages)
        if stage not in known
    ]


def filter_net(net: Any, state: Any) -> Any:
    """Return a copy of ``net`` with the layers that ``state`` (a NetState) includes."""
    filtered = pb.NetParameter()
    filtered.CopyFrom(net)
    del filtered.layer[:]
    filtered.state.CopyFrom(state)
    filtered.layer.extend(layer for layer in net.layer if is_included(layer, state))
    return filtered


def made_elsewhere(net: Any, state: Any, blob: str) -> str:
    """Return which layer of another state makes a blob, as the end of a message; or "".

    Args:
        net: the net with the layers of all states.
        state: the state in which no layer makes the blob.
        blob: its name.
    """
    for layer in net.layer:
        if blob in layer.top and not is_included(layer, state):
            return f"; layer '{layer.name}' does, {asked_for(layer)}"
    return ""


def asked_for(layer: Any) -> str:
    """Describe a layer's first rule in words."""
    kind, rules = ("only in", layer.include) if layer.include else ("but not in", layer.exclude)
    rule = rules[0]
    parts = [f"phase {pb.Phase.Name(rule.phase)}"] if rule.HasField("phase") else []
    parts += [f"stage '{stage}' (-stage {stage})" for stage in rule.stage]
    parts += [f"nets without stage '{stage}'" for stage in rule.not_stage]
    parts += [f"levels from {rule.min_level}"] if rule.HasField("min_level") else []
    parts += [f"levels to {rule.max_level}"] if rule.HasField("max_level") else []
    return f"{kind} {' and '.join(parts) or 'any state'}"
