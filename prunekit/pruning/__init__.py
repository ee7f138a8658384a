"""The heart: which weights are kept. A sparsity becomes a mask in here, and nowhere else.

Knows tensors by name and the clock, nothing of data sets, recipes or the trainer. The rooms above
may import it; it imports `foundation` and `registry`, and `runs` only for what another run left.
"""
