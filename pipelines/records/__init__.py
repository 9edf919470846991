"""The records database: who was answered by which model, and why that model was there."""
