"""What the batches have to tell: questions in, tables out."""
