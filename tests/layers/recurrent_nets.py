"""What the tests of LSTM and RNN share: nets of one such layer, plain re-implementations."""

from __future__ import annotations

import numpy as np
import torch

from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import layer_net

T, N, INPUTS, OUTPUTS, STATIC = 5, 3, 4, 2, 6
HIDDEN = {"LSTM": 2, "RNN": 1}


def shapes(type_name, static=False, expose=False, t=T, n=N):
    """Return the bottoms' shapes."""
    result = [(t, n, INPUTS), (t, n)]
    result += [(n, STATIC)] if static else []
    return result + [(1, n, OUTPUTS)] * (HIDDEN[type_name] * expose)


def recurrent_net(type_name, static=False, expose=False, phase=pb.TRAIN, options=""):
    """Build a net of one recurrent layer with weights far from 0."""
    torch.manual_seed(0)
    body = (
        f'type: "{type_name}" {options} recurrent_param {{ num_output: {OUTPUTS} '
        f"{'expose_hidden: true' if expose else ''} "
        'weight_filler { type: "uniform" min: -1 max: 1 } '
        'bias_filler { type: "uniform" min: -1 max: 1 } }'
    )
    tops = 1 + HIDDEN[type_name] * expose
    return layer_net(body, *shapes(type_name, static, expose), tops=tops, phase=phase)


def random_bottoms(type_name, static=False, expose=False, begin=False, seed=0, **sizes):
    """Return bottoms; cont is 0 and 1, and with ``begin`` 0 at the first timestep."""
    generator = torch.Generator().manual_seed(seed)
    values = [
        torch.randn(shape, generator=generator)
        for shape in shapes(type_name, static, expose, **sizes)
    ]
    values[1] = (values[1] > -0.5).float()
    if begin:
        values[1][0] = 0
    return values


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(type_name, blobs, x, cont, static=None, state=None):
    """Run a recurrent layer in float64, one stream and timestep at a time.

    Returns:
        The output [T, N, D] and the last state, a list of [N, D].
    """
    blobs = [np.asarray(b.detach(), np.float64) for b in blobs]
    w_x, bias, *rest = blobs
    w_static = rest.pop(0) if static is not None else None
    outputs = rest[0].shape[1]
    time, streams = cont.shape
    result = np.zeros((time, streams, outputs))
    if state is None:
        state = [np.zeros((streams, outputs)) for _ in range(HIDDEN[type_name])]
    state = [np.array(part, np.float64) for part in state]
    for n in range(streams):
        for t in range(time):
            sums = w_x @ x[t, n].reshape(-1) + bias + rest[0] @ (cont[t, n] * state[0][n])
            if w_static is not None:
                sums = sums + w_static @ static[n].reshape(-1)
            if type_name == "LSTM":
                i, f, o, g = np.split(sums, 4)
                state[1][n] = cont[t, n] * sigmoid(f) * state[1][n] + sigmoid(i) * np.tanh(g)
                state[0][n] = sigmoid(o) * np.tanh(state[1][n])
                result[t, n] = state[0][n]
            else:
                state[0][n] = np.tanh(sums)
                result[t, n] = np.tanh(rest[1] @ state[0][n] + rest[2])
    return result, state
