"""The runs of Hinton's experiment as prototxt: each one's net, solver and distiller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import examples
from ..data.backends.idx import LABELS, locate, read_idx, read_pair
from ..proto import caffe_pb2 as pb
from ..proto import text

LOGITS = "ip3"  # the blob of the logits in all nets of the experiment
_PER_DIGIT = 50_000  # the cost of the rest of an iteration, in weights
_TESTS = 14  # about how often a run is tested


@dataclass(frozen=True)
class Digits:
    """The digits of the experiments, and the size of the nets for them.

    Attributes:
        folder: the folder of the four IDX files.
        train: the number of training digits used, the first ones.
        validation: how many of these, the last ones, are left out by runs that are tuned on them.
        tested: the number of test digits.
        divisor: the divisor of the hidden layers' numbers of units.
    """

    folder: Path
    train: int
    validation: int
    tested: int
    divisor: int = 1

    def labels(self, part: str = "train") -> np.ndarray:
        """Return the labels of the training digits or of the test digits, ``t10k``."""
        return read_idx(locate(str(self.folder / f"{part}-labels-idx1-ubyte")), LABELS)


def results_folder(experiment: str, kind: str, quick: bool) -> str:
    """Return the default folder of an experiment's results.

    A quick run, or one on digits other than MNIST's, does not overwrite a full one.
    """
    ending = ("_quick" if quick else "") + ("" if kind == "MNIST" else "_digits")
    return f"output/experiments/{experiment}{ending}"


def digits_in(folder: Path, most: int | None = None, divisor: int = 1) -> Digits:
    """Return the digits of a folder, at most ``most`` each for training and testing."""
    counts = []
    for part in ("train", "t10k"):
        names = [folder / f"{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        counts.append(len(read_pair(names[0], names[1])[1]))
    train, tested = (min(count, most or count) for count in counts)
    return Digits(folder, train, train // 12, tested, divisor)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: its folder.
        net: teacher, student or small, of ``prototxt/hinton``.
        passes: the number of epochs.
        rate: base_lr; None: as in the example's solver.
        seed: random_seed.
        teachers: the runs whose nets it learns from; with several, from the mean of their
            probabilities.
        temperature: the temperature of the distillation.
        alpha: the weight of the teacher's outputs in the objective; the rest is the labels'.
        count: the number of training digits; None: all.
        leave_out: the classes that are left out.
        is_tuned: whether it leaves out the validation digits.
        solver: a solver of that folder other than teacher, student or kd.
    """

    name: str
    net: str
    passes: int
    rate: float | None = None
    seed: int = 1
    teachers: tuple[str, ...] = ()
    temperature: float = 20.0
    alpha: float = 0.9
    count: int | None = None
    leave_out: tuple[int, ...] = ()
    is_tuned: bool = False
    solver: str = ""


class RunFiles:
    """Creates the files of runs, for some digits.

    Args:
        digits: the digits to train and test on.
        runs: the runs by name, including all teachers.

    Attributes:
        examples: the folder of ``prototxt/`` with the nets.
        logits: the name of the logits' blob and layer.
    """

    examples = "hinton"
    logits = LOGITS

    def __init__(self, digits: Digits, runs: dict[str, Run]) -> None:
        self.digits = digits
        self.runs = runs

    def messages(self, run: Run) -> dict[str, Any]:
        """Return a run's files by name, as messages."""
        net = self.net(run)
        batch = next(x for x in net.layer if x.type == "Data").data_param.batch_size
        messages = {"net.prototxt": net, "solver.prototxt": self._solver(run, batch)}
        if run.teachers:
            messages["distiller.prototxt"] = _distiller(run)
        return messages

    def weights_name(self, run: Run) -> str:
        """Return the name of a run's final weights file."""
        return f"solver_iter_{self.messages(run)['solver.prototxt'].max_iter}.caffemodel"

    def cost(self, run: Run) -> float:
        """Return the cost of a run in an arbitrary unit: weights times digits."""
        messages = self.messages(run)
        units = [
            x.inner_product_param.num_output
            for x in messages["net.prototxt"].layer
            if x.type == "InnerProduct"
        ]
        weights = sum(a * b for a, b in zip([784, *units], units, strict=False))
        return float((weights + _PER_DIGIT) * messages["solver.prototxt"].max_iter)

    def net(self, run: Run) -> Any:
        """Return a run's net on these digits, with its layers of all phases."""
        digits = self.digits
        net = text.read(
            examples.folder(self.examples) / f"{run.net}_train_test.prototxt", pb.NetParameter()
        )
        for layer in net.layer:
            if layer.type == "InnerProduct" and layer.name != self.logits:
                units = layer.inner_product_param.num_output // digits.divisor
                layer.inner_product_param.num_output = max(10, units)
            if layer.type != "Data":
                continue
            param = layer.data_param
            param.source = (digits.folder / Path(param.source).name).resolve().as_posix()
            if layer.include[0].phase == pb.TRAIN:
                self._select_training(run, param)
            elif layer.include[0].stage:
                param.first, param.count = digits.train - digits.validation, digits.validation
                param.batch_size = batch_for(digits.validation)
            else:
                param.batch_size = batch_for(digits.tested)
                if digits.tested < len(digits.labels("t10k")):
                    param.count = digits.tested
        return net

    def _select_training(self, run: Run, param: Any) -> None:
        count = self._training_range(run)
        if count < len(self.digits.labels()):
            param.count = count
        param.leave_out.extend(run.leave_out)

    def _training_range(self, run: Run) -> int:
        if run.count is not None:
            return run.count
        return self.digits.train - (self.digits.validation if run.is_tuned else 0)

    def _solver(self, run: Run, batch: int) -> Any:
        kind = "teacher" if run.net == "teacher" else "kd" if run.teachers else "student"
        file = examples.folder("hinton") / f"{run.solver or kind}_solver.prototxt"
        solver = text.read(file, pb.SolverParameter())
        labels = self.digits.labels()[: self._training_range(run)]
        a_pass = max(1, int((~np.isin(labels, run.leave_out)).sum()) // batch)
        solver.net = "net.prototxt"
        solver.ClearField("snapshot_prefix")  # the default is the solver's folder
        solver.test_iter[:] = [self.digits.tested // batch_for(self.digits.tested)]
        solver.test_interval = a_pass * max(1, run.passes // _TESTS)
        if solver.snapshot:
            solver.snapshot = solver.test_interval
        solver.display = solver.average_loss = a_pass
        solver.max_iter = a_pass * run.passes
        solver.random_seed = run.seed
        if run.rate is not None:
            solver.base_lr = run.rate
        if run.teachers:
            del solver.teacher[:]
            for name in run.teachers:
                entry = solver.teacher.add(net=f"../{name}/net.prototxt")
                entry.name = "teacher" if len(run.teachers) == 1 else name
                entry.weights = f"../{name}/{self.weights_name(self.runs[name])}"
        return solver


def _distiller(run: Run) -> Any:
    """Return the distiller of a run: from one teacher, or from the mean of several."""
    net = text.read(examples.folder("hinton") / "distiller.prototxt", pb.NetParameter())
    (loss,) = net.layer
    loss.distilling_loss_param.temperature = run.temperature
    loss.distilling_loss_param.alpha = run.alpha
    if len(run.teachers) == 1:
        return net
    loss.bottom[1] = "ensemble"
    ensemble = pb.LayerParameter(name="ensemble", type="TeacherEnsemble", top=["ensemble"])
    ensemble.bottom.extend(f"{teacher}/{LOGITS}" for teacher in run.teachers)
    ensemble.include.add(phase=pb.TRAIN)
    ensemble.teacher_ensemble_param.temperature = run.temperature
    return pb.NetParameter(name=net.name, layer=[ensemble, loss])


def batch_for(total: int) -> int:
    """Return the largest batch size up to 100 with which a test uses each digit once."""
    return max(size for size in range(1, 101) if total % size == 0)
