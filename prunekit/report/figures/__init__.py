"""What reports draw; one file a kind of picture, all in one style."""
