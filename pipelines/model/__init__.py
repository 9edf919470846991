"""Batches become a model, judged, versioned and laid out for serving."""
