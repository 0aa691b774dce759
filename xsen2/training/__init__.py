"""Training: scenes to patches, patches to weights, weights to a card."""
