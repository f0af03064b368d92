"""Long-lived worker processes, their jobs, and the devices they get."""
