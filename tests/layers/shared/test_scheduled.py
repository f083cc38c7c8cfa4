import pytest

from caffe_kd.core.errors import NetError
from tests.helpers import layer_net

SHAPES = ((2, 3), (2, 3), (2,))
TWO = "point { iter: 10 value: 8 } point { iter: 20 value: 2 }"
BY_TYPE = {
    "DistillingLoss": ("distilling_loss_param", 2),
    "DecoupledDistillingLoss": ("decoupled_distilling_loss_param", 3),
    "DISTLoss": ("dist_loss_param", 2),
    "TeacherEnsemble": ("teacher_ensemble_param", 2),
    "ClassMap": ("class_map_param", 1),
}


def net_of(type_name, settings):
    message, bottoms = BY_TYPE[type_name]
    if type_name == "ClassMap":
        settings += " group { class: 0 class: 2 } group { class: 1 }"
    return layer_net(f'type: "{type_name}" {message} {{ {settings} }}', *SHAPES[:bottoms])


def outputs_at(net, iterations):
    import torch

    torch.manual_seed(0)
    values = {f"x{i}": torch.randn(2, 3) for i in range(2)}
    values["x2"] = torch.tensor([0.0, 2.0])
    inputs = {k: v for k, v in values.items() if k in net.inputs}
    found = []
    for iteration in iterations:
        net.set_iteration(iteration)
        net(inputs)
        found.append(net.blobs["y0"].flatten().tolist())
    return found


@pytest.mark.parametrize("type_name", BY_TYPE)
def test_temperature_of_each_iteration_is_the_schedules(type_name):
    got = outputs_at(net_of(type_name, f"temperature_schedule {{ {TWO} }}"), (0, 10, 15, 20, 30))
    fixed = [outputs_at(net_of(type_name, f"temperature: {t}"), [0])[0] for t in (8, 5, 2)]
    assert got == [fixed[0], fixed[0], fixed[1], fixed[2], fixed[2]]
    assert fixed[0] != fixed[1] != fixed[2]


@pytest.mark.parametrize("type_name", BY_TYPE)
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (f"temperature: 4 temperature_schedule {{ {TWO} }}", "temperature and temperature_sch"),
        ("temperature_schedule { }", "temperature_schedule needs at least one point"),
        (
            "temperature_schedule { point { value: 1 } point { iter: 9 value: 0 } }",
            r"temperature_schedule: temperature must be above 0. Received: iter=9, value=0.0",
        ),
        ("temperature: 0", "temperature must be above 0. Received: temperature=0.0"),
    ],
)
def test_impossible_temperature_is_refused(type_name, settings, words):
    with pytest.raises(NetError, match=words):
        net_of(type_name, settings)


@pytest.mark.parametrize("type_name", ["TeacherEnsemble", "ClassMap"])
def test_output_that_changes_with_the_iteration_is_not_cached(type_name):
    fixed = net_of(type_name, "temperature: 4").nodes[-1].layer
    assert fixed.per_sample
    changing = net_of(type_name, f"temperature_schedule {{ {TWO} }}").nodes[-1].layer
    assert not changing.per_sample
