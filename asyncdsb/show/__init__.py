"""Pictures of a restoration: heatmaps, films, reports."""
