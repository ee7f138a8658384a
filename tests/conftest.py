"""Hypothesis profiles and one thread a process, for every test."""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=30, **_common)
settings.register_profile("ci", max_examples=500, derandomize=True, **_common)
settings.load_profile(
    os.environ.get("PRUNEKIT_HYPOTHESIS", "ci" if os.environ.get("CI") else "dev")
)
