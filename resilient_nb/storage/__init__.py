"""What is kept on disk: checkpoints (Zarr v3), captured values and the journal (SQLite).

Import the module you need: the control plane reads the journal and never loads NumPy.
"""
