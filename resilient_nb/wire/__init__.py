"""Messages between notebook, control, agent and rank, and their codec."""
