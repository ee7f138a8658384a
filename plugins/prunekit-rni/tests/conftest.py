"""Hypothesis profiles, and one thread."""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("rni-dev", max_examples=20, **_common)
settings.register_profile("rni-ci", max_examples=60, derandomize=True, **_common)
settings.load_profile("rni-ci" if os.environ.get("CI") else "rni-dev")
