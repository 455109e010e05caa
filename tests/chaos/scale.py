"""How long a form of the run is asked for."""

from __future__ import annotations

import os

SCALE = int(os.environ.get("CHAOS_SCALE", "1"))
"""How many times the short form is done; from 2 on, with the faults that the short form leaves out."""
KILLS = int(os.environ.get("CHAOS_KILLS", "3"))
"""How many replicas are killed in the run that kills; 50 is the promise."""
