"""A run on the disk: its directory, checkpoints and tensor files, whole or not there.

Knows files and what stands in them, nothing of models or training. The rooms above may import it.
"""
