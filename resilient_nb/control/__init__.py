"""The control plane: a Dask SchedulerPlugin around the pure core."""
