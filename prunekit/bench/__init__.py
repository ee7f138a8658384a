"""Measurements side by side: ours, its baseline and the goal, in one run.

How a user checks our claims: knows every room up to `train`. Only `cli` may import it.
"""
