"""What the browser page shows, apart from its components: canvas geometry, payloads, CSS and JS.

Only ``app.py`` imports this; nothing here imports the user interface library.
"""
