"""Networks: architectures, cards, weights and inference."""
