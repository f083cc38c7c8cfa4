"""Nets in plain torch, small, and their export by either exporter."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from torch import nn

EXPORTERS = ["old", "new"]


def export(module, shape, path, exporter, **options):
    """Write a module in eval mode as ONNX with input "data", its batch free."""
    example = options.pop("example", None)
    example = torch.randn(shape) if example is None else example
    module = module.eval()
    if exporter == "new":
        if importlib.util.find_spec("onnxscript") is None:
            pytest.skip("torch's newer exporter needs onnxscript, which is not installed")
        options |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "verbose": False}
    else:
        options |= {"dynamic_axes": {"data": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            str(path),
            input_names=["data"],
            dynamo=exporter == "new",
            **options,
        )
    return path


def randomized(module, seed=0):
    """Give BatchNorms statistics as after training, so that none is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.copy_(torch.rand(part.running_mean.shape, generator=generator) - 0.5)
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
            with torch.no_grad():
                part.bias.copy_(torch.rand(part.bias.shape, generator=generator) - 0.5)
    return module


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = nn.Identity()
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.down(x))


class ResNet18(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], width
        for stage, stride in enumerate((1, 2, 2, 2)):
            outputs = width * 2**stage
            blocks += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.average(self.blocks(x)), 1))


NETS = {"ResNet-18": (ResNet18, (2, 3, 64, 64))}
