"""The operator: its arguments, the step in three arithmetics, and MXNet's callbacks."""
