"""The agent: a Dask WorkerPlugin between the control plane and the host's supervisor."""
