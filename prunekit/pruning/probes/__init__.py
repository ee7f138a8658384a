"""What watches gradients and changes nothing; one file a probe."""
