"""Laws have no time limit of their own: other work on the machine is no failure.

CI tries the same examples each time, so that it fails for what was changed. New ones are looked
for wherever else the tests run.
"""

import os

from hypothesis import settings

settings.register_profile("laws", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("laws")
