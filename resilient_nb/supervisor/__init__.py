"""The detached per-host parent of ranks: it outlives Dask's processes, not they it."""
