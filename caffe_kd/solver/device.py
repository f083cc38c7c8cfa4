"""Which device a command runs on: as ``-gpu`` and ``solver_mode`` ask, if it exists."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core.errors import UsageError


def choose_device(
    gpu: str | None, solver_mode_gpu: bool | None, device_id: int = 0
) -> tuple[torch.device, str]:
    """Return the device to train on and the log's line about it.

    Without a CUDA device it is the CPU, even if a GPU is asked for.

    Args:
        gpu: the ``-gpu`` flag: a device number, ``all``, or nothing.
        solver_mode_gpu: whether the solver asks for a GPU; None if it says nothing.
        device_id: the GPU to use if the flag names none.

    Raises:
        UsageError: ``-gpu`` names several devices, or one that does not exist while others do.
    """
    count = torch.cuda.device_count()
    if not gpu:
        if not solver_mode_gpu:
            return torch.device("cpu"), "Use CPU."
        if not count:
            return torch.device("cpu"), "Use CPU. (solver_mode is GPU, but there is no CUDA device)"
        if device_id >= count:
            raise UsageError(
                f"device_id: {device_id} in the solver, but there are {count} CUDA devices here"
            )
        gpu = str(device_id)
    numbers = gpu_numbers(gpu, count)
    if len(numbers) > 1:
        raise UsageError(
            f"-gpu {gpu}: training runs on one GPU, in one process. Name one, such as -gpu "
            f"{numbers[0]}; iter_size: {len(numbers)} in the solver sums the gradients of as many "
            "batches"
        )
    if not count:
        return torch.device("cpu"), _no_gpu(gpu)
    return torch.device("cuda", numbers[0]), f"Using GPUs {numbers[0]}"


def choose_one_device(gpu: str | None) -> tuple[torch.device, list[str]]:
    """Return the device of a command that runs on one, and the log's lines about it.

    Of several that ``-gpu`` names it is the first, as in Caffe; without a CUDA device it is the
    CPU.

    Raises:
        UsageError: ``-gpu`` names a device that does not exist while others do.
    """
    if not gpu:
        return torch.device("cpu"), ["Use CPU."]
    count = torch.cuda.device_count()
    first, *others = gpu_numbers(gpu, count)
    if not count:
        return torch.device("cpu"), [_no_gpu(gpu)]
    lines = [f"Not using GPU #{number} for single-GPU function" for number in reversed(others)]
    lines.append(f"Use GPU with device ID {first}")
    lines.append(f"GPU device name: {torch.cuda.get_device_name(first)}")
    return torch.device("cuda", first), lines


def gpu_numbers(gpu: str, count: int) -> Sequence[int]:
    """Return the devices that ``-gpu`` names: numbers separated by commas, or ``all``.

    Raises:
        UsageError: it names none, or one that is not among the ``count`` devices, if there are any.
    """
    if gpu == "all":
        return range(max(count, 1))
    parts = [part.strip() for part in gpu.split(",") if part.strip()]
    numbers = [_gpu_number(part) for part in parts]
    if not numbers or (count and any(number >= count for number in numbers)):
        raise UsageError(f"-gpu {gpu}: there are {count} CUDA devices here, 0 to {count - 1}")
    return numbers


def _no_gpu(flag: str) -> str:
    return f"Use CPU. (-gpu {flag}, but there is no CUDA device)"


def _gpu_number(text: str) -> int:
    if not text.isdigit():
        raise UsageError(f"-gpu takes a device number, such as '-gpu 0'. Received: {text}")
    return int(text)
