"""The audit room: from one answer back to its model, data, code and the decision that let it out."""
