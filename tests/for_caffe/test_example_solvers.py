"""Which of the examples' solvers BVLC Caffe can train, by what the others need of this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.analysis.reading import blob_counts
from caffe_kd.core.errors import CaffeKDError
from caffe_kd.for_caffe.databases import Databases
from caffe_kd.for_caffe.net import net_for_caffe
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.solver.plan import Overrides, read_plan

EXAMPLES = Path(__file__).parents[2] / "prototxt"
SOLVERS = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*solver.prototxt"))

# The rest, each with what keeps it here.
REFUSED = {
    "article/solver.prototxt": "layer 'lr' (LearningRate): neither BVLC Caffe nor the plugin",
    "cifar10/resnet20_solver.prototxt": "no field 'jitter'. It cannot shift images at random",
    "compress/lenet_solver.prototxt": "no field 'jitter'. It cannot shift images at random",
    "compress/resnet20_solver.prototxt": "no field 'jitter'. It cannot shift images at random",
    "distillation/crd_bank_solver.prototxt": "Drop the third top",
    "distillation/crd_solver.prototxt": "(CRDLoss): neither BVLC Caffe nor the plugin",
    "distillation/dkd_solver.prototxt": "the plugin has no loss_weight_schedule",
    "distillation/ft_solver.prototxt": "the plugin has no loss_weight_schedule",
    "distillation/joint_solver.prototxt": "gives a gradient only to the student",
    "distillation/mean_teacher_solver.prototxt": "is an average of the student (ema)",
    "distillation/onnx_teacher_solver.prototxt": "teacher.onnx': no such file",
    "distillation/recurrent_solver.prototxt": "(Permute): neither BVLC Caffe nor the plugin",
    "distillation/recurrent_teacher_solver.prototxt": "(Permute): neither BVLC Caffe nor",
    "distillation/stages_solver.prototxt": "the plugin has no temperature_schedule",
    "hinton/teacher_solver.prototxt": "no field 'jitter'. It cannot shift images at random",
}


class Unwritten(Databases):
    """Lets a data layer take its samples from an LMDB that is not there."""

    def use(self, layer):
        layer.data_param.CopyFrom(
            pb.DataParameter(
                source="lmdb", backend=pb.DataParameter.LMDB, batch_size=layer.data_param.batch_size
            )
        )


@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_is_for_bvlc_caffe_or_says_what_is_in_the_way(solver, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no teacher is trained yet
    counting = Overrides(
        weights=["student.caffemodel"], count_blobs=lambda net, _: blob_counts(net)
    )
    databases = Unwritten(tmp_path, print)
    try:
        plan = read_plan(EXAMPLES / solver, counting)
        net_for_caffe(plan.composed, plan.ema_teachers, databases)
    except CaffeKDError as error:
        assert REFUSED.get(solver, "accepted") in str(error)
    else:
        assert solver not in REFUSED


def test_refused_solvers_are_examples():
    assert set(REFUSED) <= set(SOLVERS)
