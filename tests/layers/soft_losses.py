"""What holds of the losses between a student's logits and its teacher's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caffe_kd.export.deploy import deploy
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text


def gradients(net: Net, values: dict[str, Tensor]) -> list[Tensor | None]:
    """Return the gradients to the student's logits "s" and to the teacher's "t"."""
    leaves = {k: values[k].clone().requires_grad_() for k in "st"}
    objective = net({k: leaves.get(k, v) for k, v in values.items() if k in net.inputs})
    assert objective is not None
    return list(torch.autograd.grad(objective, list(leaves.values()), allow_unused=True))


def hold_teacher_gets_no_gradient(make: Callable[..., Net], values: dict[str, Tensor]) -> None:
    """To the teacher there is a gradient only where propagate_down asks for one."""
    student, teacher = gradients(make(), values)
    assert student is not None and student.any()
    assert teacher is None
    bottoms = len(make().nodes[-1].bottoms)
    flags = ["true", "true", "false"][:bottoms]
    asked = make(extra=" ".join(f"propagate_down: {flag}" for flag in flags))
    student, teacher = gradients(asked, values)
    assert student is not None and student.any()
    assert teacher is not None and teacher.any()


def check_edge_cases(make: Callable[[int], Net]) -> None:
    """One sample, logits that are all alike, and very large ones: all is finite.

    Args:
        make: returns a net for a number of samples, of 10 classes each.
    """
    torch.manual_seed(5)
    for records in (1, 4):
        net = make(records)
        for student in (torch.randn(records, 10), torch.zeros(records, 10)):
            for scale in (1.0, 1000.0):
                teacher = torch.randn(records, 10)
                labels = torch.arange(float(records))
                values = {"s": student * scale, "t": teacher * scale, "label": labels}
                (of_student, _) = gradients(net, values)
                assert of_student is not None and of_student.isfinite().all()
                assert net.blobs["loss"].isfinite()


def hold_deployment(body: str, label: bool) -> None:
    """The loss goes with its teacher; what remains ends in the student's logits."""
    bottoms = 'bottom: "ip" bottom: "teacher/ip"' + (' bottom: "label"' if label else "")
    net = (
        """
    layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "lab" type: "Input" top: "label" input_param { shape { dim: 2 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
            inner_product_param { num_output: 4 } }
    layer { name: "teacher/ip" type: "InnerProduct" bottom: "data" top: "teacher/ip"
            inner_product_param { num_output: 4 } }
    """
        + f'layer {{ name: "kd" {bottoms} top: "kd" {body} }}'
    )
    deployed = deploy(text.parse(net, pb.NetParameter(), "net.prototxt"))
    assert [layer.name for layer in deployed.layer] == ["in", "ip"]
