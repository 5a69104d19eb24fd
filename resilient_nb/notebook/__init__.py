"""What the notebook user touches: the magics, capture, completion and display."""
