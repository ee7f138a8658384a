"""Float64 where a device has it, and on the host where not."""

import torch
from prunekit_nnrelief.wide import wide


class Narrow:
    """A tensor of a device that refuses float64, as Apple's do."""

    def __init__(self, values):
        self.values = values

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.values


def test_values_are_the_same_on_either_side():
    x = torch.tensor([0.1, 2.0])
    for tensor in (x, Narrow(x)):
        assert torch.equal(wide(tensor), x.double())
