"""Measurements side by side: ours, its baseline and the goal, in one run."""
