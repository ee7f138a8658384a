"""The settings that built-in components are held to the contract with, the usual ones first."""

OFTEN = {"every": "2st"}
WHOLE = {"sparsity": 0.7, "cadence": {"every": "1st", "stop": "100%"}}
STRATEGY_SETTINGS = {
    "magnitude": [
        {"sparsity": 0.7, "cadence": OFTEN},
        {"sparsity": 0.5, "cadence": OFTEN, "mode": "hard", "regrow": False},
        {"sparsity": 0.5, "structure": {"name": "n_m", "n": 2, "m": 4}},
        {"sparsity": 0.5, "structure": "channel", "distribution": "uniform", "during": ["ramp"]},
    ],
    "random_subnetwork": [{"sparsity": 0.5}],
    "set": [{"sparsity": 0.5, "cadence": OFTEN}, WHOLE],
    "rigl": [{"sparsity": 0.5, "cadence": OFTEN}, WHOLE],
    "ac_dc": [
        {"sparsity": 0.5, "switches": ["25%", "50%", "75%"]},
        {"sparsity": 0.7, "switches": ["40%"]},
    ],
    "lottery_ticket": [{"sparsity": 0.7, "schedule": {"name": "geometric", "rounds": 2}}],
    "snip": [{"sparsity": 0.5, "samples": 16}],
    "grasp": [{"sparsity": 0.5, "samples": 16}],
    "synflow": [{"sparsity": 0.5, "iterations": 10}],
    "lamp": [{"sparsity": 0.5, "cadence": OFTEN}, {"sparsity": 0.5}],
    "movement": [{"sparsity": 0.5}],
    "movement_soft": [{}],
    "sr_ste": [{}],
    "filter_magnitude": [{"sparsity": 0.5}],
    "fpgm": [{"sparsity": 0.5}, {"sparsity": 0.5, "mode": "ste", "cadence": OFTEN}],
    "taylor": [
        {"sparsity": 0.5, "samples": 16},
        {
            "sparsity": 0.5,
            "samples": 16,
            "order": "first",
            "structure": "channel",
            "cadence": OFTEN,
        },
    ],
    "wanda": [{"sparsity": 0.5, "samples": 16}, {"sparsity": 0.5, "compare": "tensor"}],
    "sparse_gpt": [
        {"sparsity": 0.5, "samples": 16, "cadence": OFTEN, "block": 3},
        {"sparsity": 0.5, "mode": "masked", "order": "layer", "damp": 0.1},
    ],
    "str_threshold": [{"s_init": -3.0, "threshold_decay": 1.0}, {"during": ["ramp"]}],
    "top_kast": [
        {"sparsity": 0.5, "backward_sparsity": 0.25, "cadence": OFTEN},
        {"sparsity": 0.7, "cadence": OFTEN, "explore": "50%", "norm": "l2"},
    ],
    "granet": [{"sparsity": 0.8, "cadence": OFTEN}, {"sparsity": 0.5, "start_sparsity": 0.0}],
    "srigl": [{"sparsity": 0.5, "cadence": OFTEN}, WHOLE | {"gamma_sal": 1.0}],
}
LONG = {name: [{"sparsity": 0.5}] for name in ("snip", "grasp", "synflow")}
"""As many samples or iterations as by default."""
COMPRESSOR_SETTINGS = {
    "tome": [
        {"ratio": 0.4},
        {"ratio": 0.7, "eval_ratio": 0.2, "similarity": "cosine", "partition": "sequence"},
        {"ratio": 0.5, "ratio_of": "pairs", "similarity": "neg_l2"},
    ],
    "tofu": [
        {"ratio": 0.4, "operation": "merge"},
        {"ratio": 0.7, "eval_ratio": 0.2, "metric": "keys", "prune_until": 0.3},
    ],
    "pitome": [{"ratio": 0.4}, {"ratio": 0.7, "metric": "keys", "margin": 0.3, "alpha": 0.5}],
    "random_drop": [{"ratio": 0.4}],
    "average_pool": [{"ratio": 0.6, "eval_ratio": 0.0}],
    "evit": [{"ratio": 0.4}],
}
PROBE_SETTINGS = {
    "gradient_norm": [{"cadence": OFTEN}],
    "burden": [{"every": "1st"}, {"every": "2st", "means": True}],
}
