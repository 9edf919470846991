"""Events become batches, batches become something that may be trained on."""
