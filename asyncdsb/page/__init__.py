"""The page in the browser: its layout, its wiring, its handlers, its script and style."""
