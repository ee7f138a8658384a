"""From a recipe to a finished run directory: build, the loop, its log and its end, on all ranks.

Knows every room below; `sweep`, `testing`, `bench` and `cli` may import it.
"""
