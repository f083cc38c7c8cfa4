"""``search_kd``: searches a solver's best settings on validation samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.errors import UsageError
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "search a solver's best settings on validation samples"
GROUP = "train"
EXAMPLE = "-solver prototxt/mnist/kd_solver.prototxt -trials 20 -search temperature=1:20,alpha"
DESCRIPTION = """Searches the settings that give a solver's best student: temperature and alpha of
the distillation, learning rate, batch size, weight decay. Each trial trains on all but the last
tenth of the training samples and is measured on that tenth; the test samples are never used. A net
with its own data layer for validation (phase TEST, stage "validation", with a test_state of that
stage in the solver) is measured on that layer's samples. After Ctrl-C the same command
continues."""
EPILOG = """In the output folder: best_solver.prototxt with its nets, to be trained with train_kd on
all training samples; trials.csv; search.png; a folder for each trial; search.db for Optuna."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.trials < 1:
        raise UsageError(f"-trials must be at least 1. Received: {arguments.trials}")
    if arguments.seed < 0:
        raise UsageError(f"-seed must not be negative. Received: {arguments.seed}")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError(
            "the search needs Optuna: pip install optuna, or -e '.[search]' of a checkout"
        ) from None
    from ..recipes.search import report, space
    from ..recipes.search.study import Search
    from ..recipes.search.target import SearchTarget, write

    asked = space.parse(arguments.search or "")
    path = Path(arguments.solver)
    target = SearchTarget(path, arguments.teacher_weights, arguments.max_iter, output.say)
    folder = Path(arguments.output or Path("output") / "search" / path.stem)
    searched = space.Space(target.own, asked)
    search = Search(folder, target, searched, arguments.seed, arguments.measure, output.say)
    try:
        search.run(arguments.trials, arguments.gpu)
    finally:
        done, best = search.done(), search.best()
        if done:
            names = list(searched.ranges)
            report.write(folder, search.study, done, names, search.output, arguments.seed)
        if best is not None:
            final = target.final(best.params)
            final["solver.prototxt"].snapshot_prefix = (folder / "best").resolve().as_posix()
            solver = write(folder, final, "best_")
            print(f"best of {len(done)} trials: {search.output} {best.value:g}, trial ", end="")
            print(f"{best.user_attrs['number']}: {space.describe(best.params)}")
            print(f"to train with it on all training samples: train_kd -solver {solver}")
            print(f"trials.csv and search.png are in {folder}", flush=True)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    from ..recipes.search.space import SETTINGS

    settings = "\n".join(f"  {name:13} {what}" for name, what in SETTINGS.items())
    parser = CommandParser("search_kd", DESCRIPTION, EXAMPLE, f"settings:\n{settings}\n\n{EPILOG}")
    flags.add(parser, "solver", required=True, metavar="FILE", help="the solver's prototxt")
    flags.add(
        parser,
        "trials",
        metavar="N",
        type=flags.int32,
        default=20,
        help="how many settings to try, earlier ones in the folder included (default: 20)",
    )
    flags.add(
        parser,
        "search",
        metavar="SETTINGS",
        help="what to search, as temperature=1:20,alpha,base_lr (default: all settings below that "
        "the solver has, in usual ranges around its own)",
    )
    flags.add(parser, "output", metavar="FOLDER", help="(default: output/search/<solver>)")
    flags.add(
        parser, "seed", metavar="N", type=flags.int32, default=1, help="the trials' (default: 1)"
    )
    flags.add(
        parser, "max_iter", metavar="N", type=flags.int32, help="iterations of a trial (default: "
        "the solver's)"
    )  # fmt: skip
    flags.add(
        parser,
        "measure",
        metavar="OUTPUT",
        help="the output of the test net by which trials are compared (default: an Accuracy's, "
        "else a loss's)",
    )
    flags.add(parser, "teacher_weights", metavar="FILE", help="weights of the teacher")
    flags.gpu(parser, "train")
    flags.own_code(parser)
    return parser
