"""Compresses a trained net: prune in rounds and distil after each, fold, quantise, export.

Everything lies in one folder. Each stage has a record with digests of its inputs, and is not done
again while these are the same; a training that was stopped goes on from its snapshot.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import replacing, write_atomically
from ...export.merge import merge
from ...export.pipeline import export_net
from ...net import read_net
from ...proto import text
from ...proto.binary import read_weights, write_weights
from ...pruning.options import PruneOptions
from ...pruning.prune import prune
from ...quantization import Method, Options, quantize
from ..runner import (
    ExperimentRunner,
    RunResult,
    TimeLeft,
    Training,
    as_time,
    digests,
    read_json,
    write_json,
)
from .measure import (
    Measured,
    calibration_batches,
    measure,
    measure_model,
    measure_teacher,
)
from .options import FLOAT_BITS, INT8_BITS, CompressOptions
from .subject import (
    Model,
    Subject,
    distilling_solver,
    read_subject,
    rounding_solver,
    start_solver,
)

if TYPE_CHECKING:
    from ...solver.solver import Solver

FLOAT_ONNX, INT8_ONNX = "student.onnx", "student_int8.onnx"


@dataclass
class Row:
    """A net on the way, and how long it took to get there."""

    title: str
    measured: Measured
    seconds: float = 0.0


@dataclass
class Compressed:
    """What came out.

    Attributes:
        folder: where everything is.
        rows: the nets, from the teacher to the last.
        start: the row that is compressed.
        layers: each layer's channels: its name, kept, before.
        notes: sentences for the user.
        files: the files to use, with what they are.
    """

    folder: Path
    rows: list[Row] = field(default_factory=list)
    start: int = 0
    layers: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def compress(
    solver: Path,
    weights: Path | None,
    folder: Path,
    options: CompressOptions,
    runner: ExperimentRunner,
) -> Compressed:
    """Compress the student of a solver.

    Args:
        solver: a solver that distils, or an ordinary one, whose net then learns from its old self.
        weights: what the student starts with; None: as the solver says, else it is trained first.
        folder: where everything goes.
        options: how far.
        runner: does the trainings.

    Raises:
        Stopped: by Ctrl-C; what was done is kept.
        CaffeKDError: a file is wrong or absent, or the net cannot be made so small.
    """
    options.check()
    return _Compression(read_subject(solver, weights), folder, options, runner).run()


class _Compression:
    def __init__(
        self, subject: Subject, folder: Path, options: CompressOptions, runner: ExperimentRunner
    ) -> None:
        self._subject = subject
        self._folder = folder
        self._options = options
        self._runner = runner
        self._say = runner.say
        self._result = Compressed(folder)
        self._whole: dict[tuple[str, ...], int] = {}  # channels that can go together, at first
        self._iterations = options.iterations or subject.solver.max_iter
        rounds = options.rounds if options.macs is not None else 0
        trainings = rounds + (options.qat or options.bits < INT8_BITS)
        costs = [self._iterations] * trainings
        if subject.weights is None:
            costs.append(subject.solver.max_iter)
        self._left = TimeLeft(float(cost) for cost in costs)

    def run(self) -> Compressed:
        """Do all stages, or those that are not done."""
        start = self._start()
        model = start
        if self._options.macs is not None:
            for number in range(1, self._options.rounds + 1):
                model = self._round(number, start, model)
        model = self._fold(model)
        if self._options.bits != FLOAT_BITS:
            self._round_weights(start, model)
        return self._result

    # ---- the net that is compressed

    def _start(self) -> Model:
        subject, folder = self._subject, self._folder / "start"
        net = folder / "net.prototxt"
        _write_if_new(net, text.to_text(subject.net))
        if subject.teacher is not None:
            self._add_teacher(subject.teacher)
        if subject.weights is None:
            solver = start_solver(subject, folder / "trained")
            done = self._train("the solver's own training", folder, solver, net, [])
            weights = done.weights
            self._add("student" if subject.distils else "net", done)
        else:
            weights = subject.weights
            values, seconds = self._once(
                "start: measured",
                folder / "start.json",
                {"net": text.to_text(subject.net), "weights": weights.read_bytes()},
                (),
                lambda: measure(subject.net, net, weights).as_values(),
            )
            self._result.rows.append(
                Row("student" if subject.distils else "net", Measured(**values), seconds)
            )
        self._result.start = len(self._result.rows) - 1
        return Model(net, weights)

    def _add_teacher(self, teacher: Model) -> None:
        def values() -> dict[str, Any]:
            found = measure_teacher(teacher.net, teacher.weights)
            return {} if found is None else found.as_values()

        known, seconds = self._once(
            "teacher: measured",
            self._folder / "teacher.json",
            {"net": teacher.net.read_bytes(), "weights": teacher.weights.read_bytes()},
            (),
            values,
        )
        if known:
            self._result.rows.append(Row("teacher", Measured(**known), seconds))

    # ---- a round

    def _round(self, number: int, start: Model, model: Model) -> Model:
        options = self._options
        title = f"round {number} of {options.rounds}: " if options.rounds > 1 else ""
        cut = self._cut(number)
        if self._result.rows[-1].measured.macs <= cut.amount:
            self._left.skip(float(self._iterations))
            self._say(f"{title}left out, for the net has as few multiply-adds already")
            return model
        folder = self._folder / f"round_{number}"
        pruned = Model(folder / "pruned.prototxt", folder / "pruned.caffemodel")
        values, seconds = self._once(
            f"{title}pruned",
            folder / "pruned.json",
            {
                "net": model.net.read_bytes(),
                "weights": model.weights.read_bytes(),
                "options": repr(cut),
            },
            (pruned.net, pruned.weights),
            partial(self._prune, cut, model, pruned),
        )
        self._whole = self._whole or {tuple(names): n for names, n in values["whole"]}
        self._result.layers = _joined(self._result.layers, values["layers"])
        self._result.notes += [n for n in values["notes"] if n not in self._result.notes]
        self._result.rows.append(Row(f"{title}pruned", Measured(**values["measured"]), seconds))
        net = read_net(pruned.net)
        file = folder / "solver.prototxt"
        solver = distilling_solver(self._subject, pruned, start, net, file, options.iterations)
        done = self._train(f"{title}distilled", folder, solver, pruned.net, [pruned, start])
        self._add(f"{title}{'' if title else 'pruned and '}distilled", done)
        return Model(pruned.net, done.weights)

    def _cut(self, number: int) -> PruneOptions:
        """Return what a round leaves."""
        whole = self._result.rows[self._result.start].measured.macs
        options = self._options
        return PruneOptions(
            target="macs",
            amount=max(1.0, round(whole * options.share(number))),
            criterion=options.criterion,
            scope=options.scope,
            floor=options.floor,
            exclude=options.exclude,
            whole=self._whole,
        )

    def _prune(self, cut: PruneOptions, model: Model, to: Model) -> dict[str, Any]:
        """Prune a net; write its files and return its figures."""
        layers = read_weights(model.weights)
        pruned = prune(read_net(model.net), layers, cut, model.net, str(model.weights))
        text.write(to.net, pruned.net)
        write_weights(to.weights, pruned.net, pruned.weights)
        return {
            "measured": measure(pruned.net, to.net, to.weights).as_values(),
            "layers": [(row.layer, *row.kept) for row in pruned.table.rows if row.kept],
            "notes": pruned.notes,
            "whole": list(pruned.whole.items()),
        }

    # ---- what is deployed

    def _fold(self, model: Model) -> Model:
        """Write the net to deploy: BatchNorm and Scale folded, and as float ONNX."""
        folded = Model(self._folder / "student.prototxt", self._folder / "student.caffemodel")
        onnx = self._folder / FLOAT_ONNX

        def work() -> dict[str, Any]:
            net = read_net(model.net)
            merged = merge(net, read_weights(model.weights), str(model.weights))
            text.write(folded.net, merged.net)
            write_weights(folded.weights, merged.net, merged.weights)
            export_net(merged.net, folded.net, folded.weights, onnx)
            return {}

        self._once(
            "folded and exported as float",
            self._folder / "student.json",
            {"net": model.net.read_bytes(), "weights": model.weights.read_bytes()},
            (folded.net, folded.weights, onnx),
            work,
        )
        self._result.files |= {
            "student.prototxt": "the net, BatchNorm and Scale folded",
            "student.caffemodel": "its weights",
            FLOAT_ONNX: "the same as float ONNX",
        }
        return folded

    # ---- rounding

    def _round_weights(self, start: Model, model: Model) -> None:
        options, result = self._options, self._result
        before = result.rows[-1].measured  # folding changes no figure
        after = self._quantize(model) if options.bits == INT8_BITS else None
        needed = after is None or options.qat or _points_lost(before, after) > options.tolerance
        chosen = self._folder / "int8" / INT8_ONNX
        if needed:
            trained = self._train_rounding(start, model)
            is_better = after is None or (trained.errors or 0) <= (after.errors or 0)
            if is_better:
                chosen = self._folder / "qat" / INT8_ONNX
            else:
                result.notes.append(
                    "training the rounding made more errors than rounding alone: the model written "
                    "is that of rounding alone"
                )
        to = self._folder / INT8_ONNX
        with replacing(to) as temporary:
            shutil.copyfile(chosen, temporary)
        result.files[INT8_ONNX] = f"ONNX with weights of {options.bits} bits"
        last = result.rows[-1].measured
        if last.microseconds > 1.05 * before.microseconds:
            result.notes.append(
                f"int8 is {last.microseconds / before.microseconds:.1f} times slower than float "
                "here: the layers are so small that turning values into int8 and back costs more "
                f"than it saves. Where time counts more than bytes, {FLOAT_ONNX} is the one to use"
            )

    def _quantize(self, model: Model) -> Measured:
        output = self._folder / "int8" / INT8_ONNX

        def work() -> dict[str, Any]:
            net = read_net(model.net)
            settings = Options(
                method=Method.AUTO,
                per_channel=True,
                iterations=calibration_batches(net, model.net),
                timed=False,
            )
            done = quantize(net, model.net, model.weights, output, settings)
            found = measure_model(done.model, done.source.net, net, model.net)
            return {"method": done.method.value, "measured": found.as_values()}

        values, seconds = self._once(
            "quantised",
            self._folder / "int8" / "int8.json",
            {"net": model.net.read_bytes(), "weights": model.weights.read_bytes()},
            (output,),
            work,
        )
        measured = Measured(**values["measured"])
        self._result.rows.append(Row(f"int8, {values['method']}", measured, seconds))
        return measured

    def _train_rounding(self, start: Model, model: Model) -> Measured:
        folder = self._folder / "qat"
        file = folder / "solver.prototxt"
        net = read_net(model.net)
        bits = self._options.bits
        solver = rounding_solver(
            distilling_solver(self._subject, model, start, net, file, self._options.iterations),
            bits,
        )
        output = folder / INT8_ONNX

        def found(trained: Solver) -> dict[str, Any]:
            weights = trained.newest_snapshot()[0]
            exported = export_net(net, model.net, weights, output)
            return measure_model(exported.model, exported.net, net, model.net).as_values()

        done = self._train(
            "rounding trained", folder, solver, model.net, [model, start], found, [output]
        )
        self._add("int8, trained" if bits == INT8_BITS else f"{bits} bits, trained", done)
        return self._result.rows[-1].measured

    # ---- stages

    def _train(
        self,
        title: str,
        folder: Path,
        solver: Any,
        net: Path,
        models: Sequence[Model],
        measured: Callable[[Solver], dict[str, Any]] | None = None,
        files: Sequence[Path] = (),
    ) -> RunResult:
        """Do a training unless it is done; its figures are those of its net at the end."""
        file = folder / "solver.prototxt"

        def inputs() -> dict[str, str]:
            contents: dict[str, bytes | str] = {
                "solver": text.to_text(solver),
                "data": self._subject.data,
            }
            named = [p for model in models for p in (model.net, model.weights)]
            named += [Path(p) for t in solver.teacher for p in (t.net, t.weights) if p]
            named += [Path(p) for p in (solver.net, solver.distiller_net) if p]
            contents |= {path.as_posix(): path.read_bytes() for path in named}
            return digests(contents)

        def prepare() -> Path:
            write_atomically(file, text.to_text(solver).encode())
            return file

        def figures(trained: Solver) -> dict[str, Any]:
            weights = trained.newest_snapshot()[0]
            return measure(read_net(net), net, weights).as_values()

        training = Training(
            name=title,
            record=folder / "training.json",
            inputs=inputs,
            prepare=prepare,
            measure=measured or figures,
            files=files,
            log=folder / "training.log",
            cost=float(solver.max_iter),
        )
        return self._runner.run_next(training, title, self._left)

    def _add(self, title: str, done: RunResult) -> None:
        self._result.rows.append(Row(title, Measured(**done.values), done.seconds))

    def _once(
        self,
        title: str,
        record: Path,
        contents: Mapping[str, bytes | str],
        files: Sequence[Path],
        work: Callable[[], dict[str, Any]],
    ) -> tuple[dict[str, Any], float]:
        """Do a stage unless it is done with the same inputs; return its values and seconds."""
        inputs = digests({**contents, "data": self._subject.data})
        known = read_json(record)
        if known.get("inputs") == inputs and all(path.is_file() for path in files):
            self._say(f"{title}: reused, for its inputs are the same")
            return known["values"], known["seconds"]
        started = time.perf_counter()
        values = work()
        seconds = time.perf_counter() - started
        write_json(record, {"inputs": inputs, "values": values, "seconds": seconds})
        self._say(f"{title}: {as_time(seconds)}{self._left}")
        return values, seconds


def _points_lost(before: Measured, after: Measured) -> float:
    if before.accuracy is None or after.accuracy is None:
        return 0.0
    return before.accuracy - after.accuracy


def _joined(
    before: Sequence[tuple[str, int, int]], now: Sequence[Sequence[Any]]
) -> list[tuple[str, int, int]]:
    """Return each layer's channels of now beside those of the start."""
    whole = {name: count for name, _, count in before}
    return [(name, kept, whole.get(name, count)) for name, kept, count in now]


def _write_if_new(path: Path, content: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != content:
        write_atomically(path, content.encode())
