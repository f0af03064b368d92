"""What a machine offers, what a run would take, and what is missing."""
