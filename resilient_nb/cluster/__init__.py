"""The embedded default: a detached local Dask cluster that belongs to no kernel."""
