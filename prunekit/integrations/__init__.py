"""Pruning in the trainers of others; a file each, which imports its package: extra `integrations`.

prunekit.integrations.lightning.PruningCallback, prunekit.integrations.transformers.PruningCallback,
prunekit.integrations.accelerate.AcceleratedPruner; each drives a `Pruner` and nothing else.
"""
