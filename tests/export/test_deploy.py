"""The deployed net: what leads to the predictions, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import ExportError, UsageError
from caffe_kd.export.deploy import DeployOptions, deploy, images_of, stages_asked_for
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.compose import Teacher, compose

LMDB = Path(__file__).parents[1] / "golden" / "data" / "raw_lmdb"

IMAGES = f"""
layer {{ name: "mnist" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
  data_param {{ source: "nowhere" batch_size: 64 backend: LMDB }} }}
layer {{ name: "mnist" type: "Data" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ scale: 0.5 mean_value: 3 }}
  data_param {{ source: "{LMDB}" batch_size: 7 backend: LMDB }} }}
"""
INPUT = """
layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 } } }
"""
STUDENT = """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { lr_mult: 1 }
  param { lr_mult: 2 } inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" include { phase: TRAIN } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
LOSS = """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
ACCURACY = """
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""


def parse(*parts):
    return text.parse('name: "student"' + "".join(parts), pb.NetParameter(), "net.prototxt")


def names(param):
    return [layer.name for layer in param.layer]


def test_deploy_train_test_net_keeps_what_leads_to_the_logits():
    deployed = deploy(parse(INPUT, STUDENT, LOSS, ACCURACY))
    assert text.to_text(deployed) == text.to_text(
        text.parse(
            """
            name: "student"
            layer { name: "in" type: "Input" top: "data"
              input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
            layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
              inner_product_param { num_output: 5 } }
            layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
            layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
              inner_product_param { num_output: 3 } }
            """,
            pb.NetParameter(),
        )
    )


def test_deploy_twice_changes_nothing():
    once = deploy(parse(INPUT, STUDENT, LOSS, ACCURACY))
    assert text.to_text(deploy(once)) == text.to_text(once)


def test_deploy_leaves_the_given_net_alone():
    param = parse(INPUT, STUDENT, LOSS)
    before = text.to_text(param)
    deploy(param)
    assert text.to_text(param) == before


def test_deploy_data_layer_becomes_input_with_batch_1_and_the_records_shape():
    deployed = deploy(parse(IMAGES, STUDENT, LOSS))
    first = deployed.layer[0]
    assert (first.name, first.type, list(first.top)) == ("data", "Input", ["data"])
    shape = list(first.input_param.shape[0].dim)
    source = Net(deploy_source(), pb.TEST)
    assert shape == [1, *source.shapes["data"][1:]]
    assert not first.HasField("data_param") and not first.HasField("transform_param")


def deploy_source():
    param = parse(IMAGES)
    del param.layer[0]
    return param


def test_deploy_has_the_outputs_of_the_net_in_phase_test():
    whole = Net(parse(INPUT, STUDENT, LOSS), pb.TEST)
    part = Net(deploy(parse(INPUT, STUDENT, LOSS)), pb.TEST)
    part.share_weights(whole)
    x = torch.randn(4, 3, 6, 6)
    whole({"data": x, "label": torch.zeros(4)})
    part({"data": x})
    assert part.outputs == ["ip2"]
    assert torch.equal(part.blobs["ip2"], whole.blobs["ip2"])


def test_deploy_softmax_in_test_is_kept():
    softmax = 'layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }'
    accuracy = ACCURACY.replace('bottom: "ip2"', 'bottom: "prob"')
    deployed = deploy(parse(INPUT, STUDENT, LOSS, softmax, accuracy))
    assert names(deployed) == ["in", "ip1", "relu1", "ip2", "prob"]


def test_deploy_probabilities_of_a_loss_become_a_softmax():
    loss = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label"
      top: "loss" top: "prob" softmax_param { axis: 1 } loss_weight: 1 loss_weight: 0 }"""
    deployed = deploy(parse(INPUT, STUDENT, loss))
    last = deployed.layer[-1]
    assert (last.type, list(last.bottom), list(last.top)) == ("Softmax", ["ip2"], ["prob"])
    assert last.softmax_param.HasField("axis") and not last.loss_weight


def test_deploy_dangling_branches_are_pruned():
    branch = """
    layer { name: "aside" type: "InnerProduct" bottom: "ip1" top: "aside"
      inner_product_param { num_output: 2 } }
    layer { name: "aside_relu" type: "ReLU" bottom: "aside" top: "aside" }
    layer { name: "quiet" type: "Silence" bottom: "aside" }
    """
    assert names(deploy(parse(INPUT, STUDENT, branch, LOSS))) == ["in", "ip1", "relu1", "ip2"]


def test_deploy_every_head_is_a_prediction():
    head = """
    layer { name: "where" type: "InnerProduct" bottom: "ip1" top: "where"
      inner_product_param { num_output: 4 } }
    layer { name: "distance" type: "EuclideanLoss" bottom: "where" bottom: "label" }
    """
    assert names(deploy(parse(INPUT, STUDENT, head, LOSS)))[-2:] == ["ip2", "where"]


def test_deploy_reconstruction_loss_keeps_the_input_it_compares_with():
    loss = """
    layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" }
    layer { name: "back" type: "InnerProduct" bottom: "ip2" top: "back"
      inner_product_param { num_output: 108 } }
    layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "back" bottom: "flat" top: "l" }
    """
    assert names(deploy(parse(INPUT, STUDENT, loss))) == ["in", "ip1", "relu1", "ip2", "back"]


def test_deploy_loss_weight_on_any_layer_is_training():
    penalty = """
    layer { name: "penalty" type: "Power" bottom: "ip2" top: "penalty" power_param { power: 2 }
      loss_weight: 0.1 }
    """
    assert names(deploy(parse(INPUT, STUDENT, penalty, LOSS)))[-1] == "ip2"


def test_deploy_loss_weight_on_a_layer_others_need_is_kept_without_it():
    student = STUDENT.replace('top: "ip1" param', 'top: "ip1" loss_weight: 0.1 param')
    deployed = deploy(parse(INPUT, student, LOSS))
    assert names(deployed) == ["in", "ip1", "relu1", "ip2"]
    assert not deployed.layer[1].loss_weight


def composed(distiller, teacher_name="teacher", student_loss=LOSS):
    teacher = Teacher(teacher_name, parse(INPUT, STUDENT), {"ip1": 2, "ip2": 2})
    return compose(
        parse(INPUT, STUDENT, student_loss, ACCURACY),
        [teacher],
        text.parse(distiller.replace("teacher/", f"{teacher_name}/"), pb.NetParameter()),
    )


@pytest.mark.parametrize("teacher_name", ["teacher", "professor"])
@pytest.mark.parametrize("rule", ["", "include { phase: TRAIN }"])
@pytest.mark.parametrize("student_loss", ["", LOSS])
def test_deploy_composed_net_is_the_student_alone(teacher_name, rule, student_loss):
    distiller = f"""
    layer {{ name: "distil" type: "DistillingLoss" bottom: "ip2" bottom: "teacher/ip2"
      bottom: "label" top: "distil" {rule} }}
    """
    param = composed(distiller, teacher_name, student_loss)
    assert any(layer.name == f"{teacher_name}/ip2" for layer in param.layer)
    assert text.to_text(deploy(param)) == text.to_text(deploy(parse(INPUT, STUDENT, LOSS)))


def test_deploy_distiller_layers_between_student_and_teacher_are_dropped():
    distiller = """
    layer { name: "soft" type: "SoftmaxWithTemperature" bottom: "ip2" top: "soft" }
    layer { name: "soft_t" type: "SoftmaxWithTemperature" bottom: "teacher/ip2" top: "soft_t" }
    layer { name: "gap" type: "EuclideanLoss" bottom: "soft" bottom: "soft_t" top: "gap" }
    layer { name: "hint" type: "InnerProduct" bottom: "ip1" top: "hint"
      inner_product_param { num_output: 5 } }
    layer { name: "hint_loss" type: "EuclideanLoss" bottom: "hint" bottom: "teacher/ip1" top: "h" }
    layer { name: "rate" type: "LearningRate" top: "rate" }
    """
    assert names(deploy(composed(distiller))) == ["in", "ip1", "relu1", "ip2"]


def test_deploy_shared_parameters_stay_shared():
    student = """
    layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" lr_mult: 2 }
      inner_product_param { num_output: 3 } }
    layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" param { name: "w" lr_mult: 2 }
      inner_product_param { num_output: 3 } }
    layer { name: "ip2" type: "Eltwise" bottom: "a" bottom: "b" top: "ip2" }
    """
    deployed = deploy(parse(INPUT, student, LOSS))
    assert str(deployed.layer[1].param[0]) == 'name: "w"\n'
    net = Net(deployed, pb.TEST)
    assert net.node_of("a").layer.blobs[0] is net.node_of("b").layer.blobs[0]


def test_deploy_holds_no_field_caffe_does_not_know():
    distiller = """
    layer { name: "distil" type: "DistillingLoss" bottom: "ip2" bottom: "teacher/ip2" top: "d" }
    """
    for layer in deploy(composed(distiller)).layer:
        layer.ClearField("source_line")  # where it was read; never written
        assert all(field.number < 51001 for field, _ in layer.ListFields())


def test_deploy_stages_of_the_net_itself_count():
    staged = 'state { stage: "tall" }' + INPUT + STUDENT + LOSS
    staged += """
    layer { name: "tall" type: "Softmax" bottom: "ip2" top: "p" include { stage: "tall" } }
    layer { name: "wide" type: "Softmax" bottom: "ip2" top: "q" include { stage: "wide" } }
    """
    deployed = deploy(parse(staged))
    assert names(deployed)[-1] == "tall"
    assert not deployed.HasField("state")


def test_deploy_source_of_one_phase_is_enough(tmp_path):
    param = parse(IMAGES.replace("nowhere", str(LMDB)), STUDENT, LOSS)
    param.layer[1].data_param.source = str(tmp_path / "gone")
    assert list(deploy(param).layer[0].input_param.shape[0].dim)[0] == 1


def test_deploy_data_absent_says_what_to_do():
    param = parse(IMAGES.replace(str(LMDB), "gone"), STUDENT, LOSS)
    with pytest.raises(ExportError) as caught:
        deploy(param, "net.prototxt")
    message = str(caught.value)
    assert "input 'data'" in message and "gone" in message and "net.prototxt:" in message
    assert "-input_shape data=1,C,H,W" in message
    param.layer[1].transform_param.crop_size = 5
    with pytest.raises(ExportError, match="-input_shape data=1,3,5,5 .from crop_size"):
        deploy(param, "net.prototxt")


def input_of(deployed):
    assert deployed.layer[0].type == "Input"
    return list(deployed.layer[0].top), [list(s.dim) for s in deployed.layer[0].input_param.shape]


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ({"data": (8, 3, 6, 7)}, [8, 3, 6, 7]),
        ({"data": (3, 6, 7)}, [1, 3, 6, 7]),
        ({"": (3, 6, 7)}, [1, 3, 6, 7]),
        ({"data": (3, 6, 7), "label": (1,)}, [1, 3, 6, 7]),
    ],
)
def test_deploy_given_shape_stands_for_absent_data(given, shape):
    param = parse(IMAGES.replace(str(LMDB), "gone"), STUDENT, LOSS)
    deployed = deploy(param, options=DeployOptions(input_shapes=given))
    assert input_of(deployed) == (["data"], [shape])


def test_deploy_given_shape_changes_an_input_layer():
    options = DeployOptions(input_shapes={"data": (2, 3, 9, 9)})
    assert input_of(deploy(parse(INPUT, STUDENT), options=options)) == (["data"], [[2, 3, 9, 9]])


def test_deploy_shape_for_no_input_is_an_error():
    options = DeployOptions(input_shapes={"dta": (3, 6, 6)})
    with pytest.raises(UsageError, match="-input_shape dta: .* Did you mean 'data'"):
        deploy(parse(IMAGES, STUDENT), options=options)


def test_deploy_data_layer_of_another_phase_becomes_the_input():
    in_training = IMAGES.split("layer {")[1].replace("nowhere", str(LMDB))
    deployed = deploy(parse("layer {" + in_training, STUDENT, LOSS))
    assert input_of(deployed) == (["data"], [[1, 3, 20, 24]])
    assert Net(deployed).outputs == ["ip2"]


DIGITS = """
layer { name: "train-data" type: "Data" top: "data" top: "label" include { stage: "train" }
  data_param { batch_size: 64 } }
layer { name: "val-data" type: "Data" top: "data" top: "label" include { stage: "val" }
  data_param { batch_size: 32 } }
"""
DIGITS_LOSS = LOSS.replace('type: "Soft', 'exclude { stage: "deploy" } type: "Soft')
DIGITS_SOFTMAX = """
layer { name: "softmax" type: "Softmax" bottom: "ip2" top: "softmax" include { stage: "deploy" } }
"""


@pytest.mark.parametrize(("stages", "output"), [((), "ip2"), (("deploy",), "softmax")])
def test_deploy_stage_of_an_all_in_one_net(stages, output):
    param = parse(DIGITS, STUDENT, DIGITS_LOSS, DIGITS_SOFTMAX)
    deployed = deploy(param, options=DeployOptions(0, stages, {"data": (3, 6, 6)}))
    assert input_of(deployed) == (["data"], [[1, 3, 6, 6]])
    assert Net(deployed).outputs == [output]
    assert stages_asked_for(param) == ["deploy", "train", "val"]


def test_deploy_net_without_any_input_is_an_error():
    with pytest.raises(ExportError, match=r"Unknown bottom blob 'data'.*-input_shape data=1,C,H,W"):
        deploy(parse(STUDENT, LOSS))
    given = DeployOptions(input_shapes={"data": (3, 6, 6)})
    assert Net(deploy(parse(STUDENT), options=given)).inputs == ["data"]


def test_deploy_blob_of_another_phase_alone_is_named():
    only_trains = STUDENT.replace('name: "ip1"', 'name: "ip1" include { phase: TRAIN }')
    with pytest.raises(ExportError, match=r"'ip1'.* layer 'ip1' does, only in phase TRAIN"):
        deploy(parse(INPUT, only_trains, 'layer { name: "x" type: "ReLU" bottom: "ip2" top: "x" }'))


def test_deploy_outputs_cut_off_what_lies_behind():
    cluster = """layer { name: "cluster" type: "Python" bottom: "ip2" bottom: "ip1" top: "boxes"
      python_param { module: "gone" layer: "Gone" } }"""
    param = parse(INPUT, STUDENT, LOSS, cluster)
    options = DeployOptions(outputs=["ip2", "ip1"])
    assert names(deploy(param, options=options)) == ["in", "ip1", "relu1", "ip2"]
    assert names(deploy(param, options=DeployOptions(outputs=["ip1"]))) == ["in", "ip1", "relu1"]
    with pytest.raises(UsageError, match="-outputs ip3: .* Did you mean 'ip"):
        deploy(param, options=DeployOptions(outputs=["ip3"]))


def test_deploy_data_absent_is_no_matter_where_test_has_an_input_layer():
    data = """layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN }
      data_param { source: "gone" batch_size: 9 } }"""
    in_test = INPUT.replace('type: "Input"', 'type: "Input" include { phase: TEST }')
    deployed = deploy(parse(data, in_test, STUDENT, LOSS))
    assert list(deployed.layer[0].input_param.shape[0].dim) == [4, 3, 6, 6]


@pytest.mark.parametrize("layers", ["", INPUT, LOSS])
def test_deploy_net_without_prediction_is_an_error(layers):
    with pytest.raises(ExportError, match="nothing to export"):
        deploy(parse(layers))


def test_images_of_is_the_first_top_of_layers_that_transform():
    layers = images_of(parse(IMAGES, STUDENT))
    assert list(layers) == ["data"]
    assert np.isclose(layers["data"].transform_param.scale, 0.5)
    assert images_of(parse(INPUT, STUDENT)) == {}


def test_data_layer_with_more_tops_than_it_makes_is_reported():
    layer = (
        'layer { name: "d" type: "DummyData" top: "data" top: "label" top: "more" '
        "dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }"
        'layer { name: "y" type: "Concat" bottom: "data" bottom: "more" top: "y" }'
    )
    with pytest.raises(ExportError, match="must specify 0, 1 or 3|shape"):
        deploy(text.parse(layer, pb.NetParameter()))
