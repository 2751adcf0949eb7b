"""Keeps one core busy at the lowest priority, until the process it works for ends.

python spinner.py CORE PARENT
"""

import os
import sys

core, parent = map(int, sys.argv[1:])
os.sched_setaffinity(0, {core})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
