"""The compose stack: what keeps its containers as the ledger says, and what Prometheus sees of it."""
