"""Where the numbers of a run go beside `metrics.jsonl`; one file a logger.

A logger is told what there is to log, and knows nothing of training. What it raises stops no run.
The rooms from `train` up may import it.
"""
