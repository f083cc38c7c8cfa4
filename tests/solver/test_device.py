"""Which device a command runs on."""

from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import UsageError
from caffe_kd.solver.device import choose_device, choose_one_device


def test_of_several_gpus_a_command_for_one_takes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)  # few have as many
    monkeypatch.setattr(torch.cuda, "get_device_name", "GPU {}".format)
    for gpu, order in (("2,0,1", [1, 0, 2]), ("all", [2, 1, 0])):
        device, lines = choose_one_device(gpu)
        assert device == torch.device("cuda", order[2])
        assert lines == [
            *(f"Not using GPU #{number} for single-GPU function" for number in order[:2]),
            f"Use GPU with device ID {order[2]}",
            f"GPU device name: GPU {order[2]}",
        ]
    with pytest.raises(UsageError, match="-gpu 0,3: there are 3 CUDA devices here, 0 to 2"):
        choose_one_device("0,3")
    assert choose_one_device("") == choose_one_device(None) == (torch.device("cpu"), ["Use CPU."])


def test_solver_s_device_is_taken_where_the_flag_names_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    cpu = (torch.device("cpu"), "Use CPU.")
    assert choose_device(None, True, 2) == (torch.device("cuda", 2), "Using GPUs 2")
    assert choose_device("1", True, 2) == (torch.device("cuda", 1), "Using GPUs 1")
    assert choose_device("", False, 2) == choose_device(None, None) == cpu
    with pytest.raises(UsageError, match="device_id: 3 in the solver, but there are 3 CUDA"):
        choose_device(None, True, 3)
