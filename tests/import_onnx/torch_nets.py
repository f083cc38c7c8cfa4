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


class Inverted(nn.Module):
    """MobileNet's inverted residual, in V3 with squeeze-and-excite."""

    def __init__(self, inputs, outputs, stride, act, squeeze):
        super().__init__()
        middle = inputs * 3
        self.expand = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle)
        )
        conv = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.depthwise = nn.Sequential(conv, nn.BatchNorm2d(middle))
        conv = nn.Conv2d(middle, outputs, 1, bias=False)
        self.project = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.act = act()
        self.squeeze = None
        if squeeze:
            self.squeeze = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(middle, 4, 1),
                nn.ReLU(),
                nn.Conv2d(4, middle, 1),
                nn.Hardsigmoid(),
            )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.act(self.depthwise(self.act(self.expand(x))))
        if self.squeeze is not None:
            y = y * self.squeeze(y)
        y = self.project(y)
        return x + y if self.residual else y


class MobileNet(nn.Module):
    def __init__(self, act, squeeze):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), act())
        blocks = [Inverted(8, 8, 1, act, squeeze), Inverted(8, 12, 2, act, squeeze)]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 10))

    def forward(self, x):
        return self.classifier(self.blocks(self.stem(x)).mean([2, 3]))


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (4, "M", 8, "M", 8, "M"):
            if outputs == "M":
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                continue
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(True)]
            inputs = outputs
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Sequential(
            nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)
        )

    def forward(self, x):
        x = self.features(x)
        return torch.softmax(self.classifier(x.view(x.size(0), -1)), 1)


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        parts, channels = [], 8
        for _ in range(3):
            conv = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
            parts.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), conv))
            channels += 4
        self.parts = nn.ModuleList(parts)
        self.transition = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 8, 1), nn.AvgPool2d(2, 2)
        )
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        features = self.stem(x)
        for part in self.parts:
            features = torch.cat([features, part(features)], 1)
        x = self.transition(features)
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()

        def double(inputs, outputs):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.1),
                nn.Conv2d(outputs, outputs, 3, padding=1),
                nn.PReLU(outputs),
            )

        self.first, self.second, self.third = double(3, 4), double(4, 8), double(8, 8)
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.nearest = nn.Upsample(scale_factor=2)
        self.decode, self.head = double(16, 8), nn.Conv2d(20, 2, 1)

    def forward(self, x):
        first = self.first(x)
        second = self.second(nn.functional.max_pool2d(first, 2))
        third = self.third(nn.functional.avg_pool2d(second, 3, 2, 1, count_include_pad=False))
        y = self.decode(torch.cat([self.up(third), second], 1))
        return self.head(torch.cat([self.bilinear(y), self.nearest(y), first], 1))


class Sequences(nn.Module):
    """A bidirectional LSTM over the rows of an image, read at its last step."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
        self.norm, self.fc = nn.LayerNorm(10), nn.Linear(10, 4)

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.fc(self.norm(y[:, -1]))


class Transformer(nn.Module):
    """An encoder of one block, whose attention multiplies blobs."""

    def __init__(self):
        super().__init__()
        block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, activation="gelu")
        self.block, self.fc = block, nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.block(x).mean(1))


NETS = {
    "ResNet-18": (ResNet18, (2, 3, 64, 64)),
    "MobileNetV2": (lambda: MobileNet(nn.ReLU6, False), (2, 3, 32, 32)),
    "MobileNetV3": (lambda: MobileNet(nn.Hardswish, True), (2, 3, 32, 32)),
    "VGG": (VGG, (2, 3, 27, 27)),
    "DenseNet": (DenseNet, (2, 3, 32, 32)),
    "U-Net": (UNet, (2, 3, 16, 16)),
    "LSTM": (Sequences, (2, 7, 6)),
}
