"""Pruning in rounds: remove a part, distil from the unpruned net, and go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.files import replacing
from ..net import read_net
from ..proto.binary import read_weights
from ..pruning.costs import Table
from ..pruning.cut import as_blobs
from ..pruning.options import PruneOptions
from ..pruning.output import write
from ..pruning.prune import compare, figure_of, prune
from ..pruning.recover import Recovery
from ..pruning.speed import latency_of
from .multi_run import last_test
from .runner import ExperimentRunner, Training, as_time, digests, read_json

Files = tuple[Path, Path]  # of a net: prototxt and caffemodel


@dataclass
class PruneRounds:
    """Prunes a net in rounds, each trained by a solver before the next.

    What a round removes is so chosen that each removes the same share of what is left: of the
    channels after round i of n there is ``(1 - ratio)^(i / n)``, likewise of the other targets.

    Attributes:
        source: the unpruned net, which is the teacher of each round.
        options: what the last round arrives at.
        stem: what the files' paths begin with: ``<stem>_round1.prototxt``.
        rounds: how many.
        recovery: how each round's net learns.
        runner: does the trainings.
        say: takes each line for the user.
    """

    source: Files
    options: PruneOptions
    stem: Path
    rounds: int
    recovery: Recovery
    runner: ExperimentRunner
    say: Callable[[str], None]
    _whole: dict[tuple[str, ...], int] = field(default_factory=dict)

    def run(self) -> Files:
        """Do what is not done of the rounds, and write the last one's net.

        Returns:
            ``<stem>.prototxt`` and ``<stem>.caffemodel``.

        Raises:
            Stopped: by Ctrl-C; run again, it goes on.
            CaffeKDError: the net cannot be pruned or trained.
        """
        net = self.source
        for number, options in enumerate(self._targets(), 1):
            net = self._round(number, options, net)
        model, weights = (
            self.stem.with_name(f"{self.stem.name}.{e}") for e in ("prototxt", "caffemodel")
        )
        for file, to in zip(net, (model, weights), strict=True):
            with replacing(to) as temporary:
                shutil.copyfile(file, temporary)
        return model, weights

    def table(self, net: Files) -> Table:
        """Return what a net costs beside the unpruned one."""
        (old, before), (new, after) = (
            (read_net(model), as_blobs(read_weights(weights)))
            for model, weights in (self.source, net)
        )
        file, state = self.source[0], self.options.state
        times = None
        if self.options.measures:
            times = (
                latency_of(old, before, file, state, by_layer=True),
                latency_of(new, after, file, state, by_layer=True),
            )
        return Table(compare(old, new, file, state), times)

    def _targets(self) -> list[PruneOptions]:
        """Return what each round arrives at."""
        options, parts = self.options, [i / self.rounds for i in range(1, self.rounds + 1)]
        options.check()
        last = replace(options, must_remove=False, measures=False)
        ratios = [
            {name: _share(share, part) for name, share in options.layer_ratios.items()}
            for part in parts
        ]
        if options.target == "ratio":
            amounts = [_share(options.amount, part) for part in parts]
        else:
            model, weights = self.source
            param, blobs = read_net(model), as_blobs(read_weights(weights))
            now = figure_of(options.target, param, blobs, model, options.state)
            goal = options.amount * now if options.amount < 1 else options.amount
            amounts = [now * (goal / now) ** part for part in parts]
        steps = zip(amounts, ratios, strict=True)
        return [replace(last, amount=amount, layer_ratios=shares) for amount, shares in steps]

    def _round(self, number: int, options: PruneOptions, net: Files) -> Files:
        stem = self.stem.with_name(f"{self.stem.name}_round{number}")
        solver = stem.with_name(f"{stem.name}_solver.prototxt")
        record = stem.with_name(f"{stem.name}.json")
        model = stem.with_name(f"{stem.name}.prototxt")

        def inputs() -> dict[str, str]:
            contents: dict[str, bytes | str] = {
                "model": net[0].read_bytes(),
                "weights": net[1].read_bytes(),
                "teacher": self.source[1].read_bytes(),
                "options": repr(options),
                "recovery": repr(self.recovery),
            }
            return digests(contents)

        def prepare() -> Path:
            """Prune, unless an interrupted training has begun with what was pruned."""
            begun = read_json(record).get("inputs") == inputs()
            if not (begun and solver.is_file() and model.is_file()):
                self._prune(number, options, net, stem, solver)
            return solver

        training = Training(
            name=f"round {number}",
            record=record,
            inputs=inputs,
            prepare=prepare,
            files=[model],
            measure=last_test,
        )
        label = f"round {number} of {self.rounds}"
        done = self.runner.run(training, label)
        values = [f"{name} {value:g}" for name, value in done.values.items()]
        what = "reused, for its inputs are the same" if done.reused else as_time(done.seconds)
        self.say(f"{label}: {', '.join([what, *values])}")
        return model, done.weights

    def _prune(
        self, number: int, options: PruneOptions, net: Files, stem: Path, solver: Path
    ) -> None:
        options = replace(options, whole=self._whole_channels(options))
        pruned = prune(read_net(net[0]), read_weights(net[1]), options, net[0], str(net[1]))
        for note in pruned.notes if number == 1 else []:
            self.say(f"note: {note}")
        after, before = pruned.table.after, pruned.table.before
        self.say(
            f"round {number} of {self.rounds}: parameters {before.parameters:,} -> "
            f"{after.parameters:,}, MACs {before.macs:,} -> {after.macs:,}"
        )
        for _ in write(pruned, net, stem, solver, self.recovery, teacher=self.source):
            pass

    def _whole_channels(self, options: PruneOptions) -> Mapping[tuple[str, ...], int]:
        """Return how many channels the unpruned net has, of which a round's ratio is a share."""
        if not self._whole:
            model, weights = self.source
            nothing = replace(
                options, target="ratio", amount=0.0, layer_ratios={}, criterion="L1", iterations=0
            )
            unpruned = prune(read_net(model), read_weights(weights), nothing, model, str(weights))
            self._whole = unpruned.whole
        return self._whole


def _share(share: float, part: float) -> float:
    """Return what is gone after a part of the rounds that remove a share."""
    return 1 - (1 - share) ** part
