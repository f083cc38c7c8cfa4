"""Steps a solver in your own loop, and plots the loss while it runs.

    python tools/examples/step_solver.py [FOLDER]

FOLDER/loss.png is drawn again every 20 iterations.
"""

from __future__ import annotations

from pathlib import Path

from digits import folder_asked_for, make_solver, read_digits, train
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import caffe_kd as caffe


def main(folder: Path) -> float:
    solver = make_solver(folder)
    losses: list[float] = []
    while solver.iter < solver.param.max_iter:
        losses += train(solver, 20)
        if solver.iter == 140:
            solver.param.base_lr = 0.005  # takes effect at once
        draw(losses, folder / "loss.png")
        print(f"iteration {solver.iter}, lr {solver.lr:g}: loss {losses[-1]:.4f}")
    solver.net.save(str(folder / "digits.caffemodel"))
    return accuracy(folder)


def draw(losses: list[float], path: Path) -> None:
    figure = Figure(figsize=(6, 4))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(losses)
    axes.set_yscale("log")
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    figure.savefig(path)


def accuracy(folder: Path) -> float:
    net = caffe.Net(str(folder / "deploy.prototxt"), str(folder / "digits.caffemodel"), caffe.TEST)
    images, classes = read_digits()
    net.blobs["data"].reshape(*images.shape)
    right = (net.forward(data=images)["prob"].argmax(1) == classes).mean()
    print(f"accuracy on all digits: {right:.4f}")
    return float(right)


if __name__ == "__main__":
    main(folder_asked_for(__doc__))
