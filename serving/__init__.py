"""The replica: a small web server that answers one model's recommendations and keeps a receipt of each."""

from serving.app import create_app

__all__ = ["create_app"]
