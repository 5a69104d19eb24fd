"""The detached per-host parent of ranks. It outlives Dask's processes, and ranks don't outlive it."""
