"""Receding Neuron Importances (arXiv 2204.06404) and two baselines, as prunekit strategies.

`rni`, `l1_bn` and `ucs` are found by name once this package is installed; see its README.
"""
