"""The one-machine stack: real parts under one supervisor, viewers included."""
