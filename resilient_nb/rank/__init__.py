"""The rank process: the cell's `run`, state capture, collectives, telemetry."""
