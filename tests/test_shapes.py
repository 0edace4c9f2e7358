"""Looking shapes up gives what working them out gives."""

from __future__ import annotations

import pytest
import torch
from conftest import TOYS, toy
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunekit.tracing.copies import weightless
from prunekit.tracing.shapes import Shapes


class Log(TorchDispatchMode):
    """Notes what every operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            self.seen.append((str(func), x.shape, x.stride(), x.dtype))
        return result


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("name", TOYS)
def test_every_operation_of_a_model_returns_what_it_does_without(name, grad):
    shell, images = weightless(*toy(name))
    expected, found = Log(), Log()
    with torch.set_grad_enabled(grad):
        with expected:
            shell(images)
        with Shapes(), found:
            shell(images)
    assert found.seen == expected.seen


def test_numbers_that_are_equal_but_of_other_types_are_told_apart():
    x = torch.ones(2, 3, dtype=torch.int64, device="meta")
    with Shapes():
        assert [(x * number).dtype for number in (1, 1.0, True)] == [
            torch.int64,
            torch.float32,
            torch.int64,
        ]


def test_views_share_memory_and_what_is_written_in_place_stays_itself():
    x = torch.ones(2, 3, device="meta")
    with Shapes():
        for _ in range(2):
            assert x.t().untyped_storage()._cdata == x.untyped_storage()._cdata
            assert x.add_(1) is x
            assert (x + 1).untyped_storage()._cdata != x.untyped_storage()._cdata


def test_what_returns_its_input_goes_on_doing_so():
    x = torch.ones(2, 3, device="meta")
    with torch.inference_mode(), Shapes():  # where a dropout comes here whole
        for _ in range(2):
            still = nn.functional.dropout(x, training=False)
            assert still.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_real_tensors_are_computed_every_time():
    with Shapes():
        assert [(torch.tensor(float(n)) * 2).item() for n in range(3)] == [0, 2, 4]


def test_operations_with_several_results_or_none_that_are_tensors_are_run():
    x = torch.ones(4, 3, device="meta")
    with Shapes():
        for _ in range(2):
            values, indices = x.max(dim=1)
            assert (values.dtype, indices.dtype) == (torch.float32, torch.int64)
            assert [part.shape for part in x.split(1)] == [(1, 3)] * 4
            assert torch.equal(torch.ones(3), torch.ones(3))
