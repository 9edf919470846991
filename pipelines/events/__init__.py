"""One line of the stream in, one typed event (or a reject with its reason) out."""
