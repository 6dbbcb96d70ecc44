"""Weights on disk and on the Hub, and the card beside them."""
