"""What everything stands on: values, time, parameters by name, whole files, signals, warnings.

Knows nothing of pruning, recipes or training; every room may import it.
"""
