"""The classes a written PyTorch module holds where torch.nn has none; each is there if needed."""

from __future__ import annotations

_SCALE = '''
class Scale(nn.Module):
    """Multiply by learned factors, and add learned terms."""

    def __init__(self, shape: tuple[int, ...], bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        return x if self.bias is None else x + self.bias
'''

_BIAS = '''
class Bias(nn.Module):
    """Add learned terms."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias
'''

_LRN_WITHIN_CHANNEL = '''
class LRNWithinChannel(nn.Module):
    """Divide by a power of the mean square of the places around, of the same channel."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * (1 + self.alpha * mean) ** -self.beta
'''

_AVE_POOL = '''
class AvePool(nn.Module):
    """Take the mean of windows of which some lie beyond the padding.

    The plane is padded, or cut, by ``border``; ``rows`` and ``columns`` are how many places of each
    window count.
    """

    def __init__(self, kernel, stride, border, rows: list[int], columns: list[int]) -> None:
        super().__init__()
        self.kernel, self.stride, self.border = kernel, stride, border
        counted = torch.tensor(rows)[:, None] * torch.tensor(columns)
        self.register_buffer("counted", counted.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.border)
        return F.avg_pool2d(x, self.kernel, self.stride, divisor_override=1) / self.counted
'''

HELPERS = {
    "AvePool": _AVE_POOL,
    "Bias": _BIAS,
    "LRNWithinChannel": _LRN_WITHIN_CHANNEL,
    "Scale": _SCALE,
}
