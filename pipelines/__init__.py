"""Marquee: retrain, release and account for a movie recommender."""
