"""The Jupyter server extension: what the sidebar and the panels are fed by, and steer with.

Nothing here needs a kernel: it asks the control plane itself, in the server's event loop.
"""
