"""``export_onnx``: writes a net and its weights as an ONNX model and checks it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..export.pipeline import Exported


SUMMARY = "write a trained net as ONNX"
GROUP = "deploy"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-output output/mnist/student.onnx"
)
DESCRIPTION = """Writes a net as an ONNX model: the layers that lead to its predictions in phase
TEST, without data, labels, losses and teacher. The model is checked in ONNX Runtime before the file
is written; a difference above 1e-4 * max(1, greatest value) is an error."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..export.pipeline import export_net
    from ..net import read_net

    net = read_net(arguments.model)
    exported = export_net(
        net,
        arguments.model,
        arguments.weights,
        arguments.output,
        preprocess=arguments.preprocess,
        images=arguments.data,
        options=flags.deploy_options(arguments, net),
    )
    _print(exported, Path(arguments.output))
    return 0


def _print(exported: Exported, path: Path) -> None:
    import onnx

    graph = exported.model.graph
    for what, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            sizes = ", ".join(d.dim_param or str(d.dim_value or "?") for d in tensor.shape.dim)
            print(f"{what}: {value.name} {kind} [{sizes}]")
    for blob in exported.mirrored:
        print(f"note: '{blob}' is not mirrored at random, as the net's data layer does")
    report = exported.report
    for blob, (count, total) in report.ties.items():
        print(
            f"note: {count:,} of {total:,} values of '{blob}' differ: ONNX Runtime decides near "
            "ties differently, by rounding; each layer by itself agrees"
        )
    print(f"{path}: {path.stat().st_size:,} bytes, {len(graph.node)} nodes")
    print(
        f"ONNX Runtime and the net agree on {report.samples} samples: greatest difference "
        f"{report.difference:.2e}, greatest value {report.value:.4g}"
    )


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("export_onnx", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    flags.add(parser, "output", required=True, metavar="FILE", help="the .onnx file to write")
    flags.add(
        parser,
        "preprocess",
        action="store_true",
        help="the model takes uint8 pixels (N, C, H, W) and holds the data layer's mean and scale",
    )
    flags.add(parser, "data", metavar="IDX", help="an IDX file of more images to check on")
    flags.deploy(parser)
    flags.own_code(parser)
    return parser
