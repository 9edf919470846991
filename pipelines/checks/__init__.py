"""Batches are held against expectations, and against what the serving model was trained on."""
