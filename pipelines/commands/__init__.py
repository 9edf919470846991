"""The commands of the shell, one file a room; ``pipelines.__main__`` lists them."""
