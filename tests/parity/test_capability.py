"""Whether bfloat16 is fast is measured once, without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch

from gossamer.kernels import capability
from gossamer.kernels.capability import fast_bfloat16


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    capability._cpu_speedup.cache_clear()
    yield
    capability._cpu_speedup.cache_clear()


@pytest.mark.parametrize(("speedup", "expected"), [(4.0, True), (1.4, True), (1.2, False), (0.1, False)])
def test_a_cpu_that_is_clearly_faster_counts(monkeypatch: pytest.MonkeyPatch, speedup: float, expected: bool):
    monkeypatch.setattr(capability, "_cpu_speedup", lambda: speedup)
    assert fast_bfloat16("cpu") is expected


def test_the_measurement_is_made_once_and_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch):
    threads = torch.get_num_threads()
    first = capability._cpu_speedup()
    assert 0.001 < first < 1000
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(torch, "mm", Mock(side_effect=AssertionError("measured again")))
    assert capability._cpu_speedup() == first


@pytest.mark.parametrize("supported", [True, False])
def test_cuda_is_asked(monkeypatch: pytest.MonkeyPatch, supported: bool):
    ask = Mock(return_value=supported)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", ask)
    assert fast_bfloat16("cuda:0") is supported
    ask.assert_called_once_with(including_emulation=False)


def test_no_other_device_is_trusted():
    assert not fast_bfloat16("meta")
