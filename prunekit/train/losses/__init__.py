"""What a run minimises: one file each, with what all of them are in `base`."""
