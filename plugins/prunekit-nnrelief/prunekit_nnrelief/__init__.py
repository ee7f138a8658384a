"""NNrelief (arXiv 2109.10795) for prunekit: `strategies: [{name: nnrelief}]`.

`scores` says what a connection carries, `rule` which are kept, `graph` how layers hang together,
`activity` what flows through them, `sweep` which units are dead, and `strategy` puts it in a run.
"""
