"""Modules that shorten a token sequence inside a forward pass; one file an algorithm.

Knows tokens and nothing of models, pruning or training. The rooms above may import it.
"""
