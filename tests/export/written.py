"""What the tests of written modules share: they run where caffe_kd cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from caffe_kd.export.torch_code import to_torch
from caffe_kd.net import Net

BOUND = 1e-5  # relative to the greatest value: the same float32 operators, some in another order

# Runs every module of a folder on its inputs, call after call.
_RUN = """
import importlib, sys
from pathlib import Path
sys.modules["caffe_kd"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np, torch
torch.set_num_threads(1)
for path in sorted(Path(sys.argv[1]).glob("*.py")):
    net, tops = importlib.import_module(path.stem).load(), {}
    given = np.load(path.with_suffix(".npz"))
    for call in range(int(given["calls"])):
        names = [name for name in given.files if name.startswith(f"{call}/")]
        with torch.no_grad():
            made = net(*(torch.from_numpy(given[name]) for name in names))
        made = {"": made} if isinstance(made, torch.Tensor) else made
        for name, top in made.items():
            tops[f"{call}/{name or 'only'}"] = top.detach().numpy()
    np.savez(path.with_suffix(".out.npz"), **tops)
"""

# One for each input of a net.
Inputs = list[Tensor]


@dataclass
class Written:
    """Nets, their written modules in a folder, and the outputs of both."""

    folder: Path
    ours: dict[str, list[dict[str, np.ndarray]]] = field(default_factory=dict)

    def add(self, name: str, net: Net, calls: list[Inputs]) -> None:
        """Write a net's module, and run the net on one input after another."""
        module = to_torch(net, "a net.prototxt")
        self.path(name).write_text(module.source)
        save_file(module.weights, self.path(name).with_suffix(".safetensors"))
        self.ask(name, net, calls)

    def path(self, name: str) -> Path:
        return self.folder / f"case_{name}.py"

    def ask(self, name: str, net: Net, calls: list[Inputs]) -> None:
        """Run a net whose module is at its path."""
        given = {"calls": np.array(len(calls))}
        self.ours[name] = []
        for index, inputs in enumerate(calls):
            with torch.no_grad():
                net(dict(zip(net.inputs, inputs, strict=True)))
            self.ours[name].append(
                {top: net.blobs[top].detach().numpy().copy() for top in net.outputs}
            )
            given |= {f"{index}/{i:03}": x.numpy() for i, x in enumerate(inputs)}
        np.savez(self.path(name).with_suffix(".npz"), **given)

    def run(self) -> None:
        """Run all modules, in one process."""
        command = [sys.executable, "-c", _RUN, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def check(self, name: str) -> None:
        """Compare a module's outputs with the net's tops."""
        theirs = dict(np.load(self.path(name).with_suffix(".out.npz")))
        for index, ours in enumerate(self.ours[name]):
            if f"{index}/only" in theirs:
                (top,) = ours
                theirs[f"{index}/{top}"] = theirs.pop(f"{index}/only")
            for top, want in ours.items():
                got = theirs.pop(f"{index}/{top}")
                assert got.shape == want.shape, (top, index)
                bound = BOUND * max(1.0, float(np.abs(want).max(initial=0)))
                np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=f"{top} {index}")
        assert not theirs


def randomized(net: Net) -> Net:
    """Fill all blobs of a net, the learned ones and the statistics, with positive values."""
    torch.manual_seed(1)
    with torch.no_grad():
        for param in net.params:
            param.blob.uniform_(0.1, 0.9)
    return net
