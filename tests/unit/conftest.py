"""Laws have no time limit of their own: other work on the machine is no failure."""

from hypothesis import settings

settings.register_profile("laws", deadline=None)
settings.load_profile("laws")
