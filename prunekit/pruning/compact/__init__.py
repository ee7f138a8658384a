"""A model without the units that its masks have emptied: smaller, with the same logits."""
