"""What center loss costs: `python -m benchmarks`."""
