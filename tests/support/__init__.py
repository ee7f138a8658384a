"""What several tests use: small runs, data sets, slow oracles, broken components."""
