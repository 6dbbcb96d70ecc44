"""How good a restoration is, and whether it keeps to its schedule."""
