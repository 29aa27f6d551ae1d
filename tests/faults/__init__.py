"""Real faults: full disks, power cuts, two hosts, servers that never stop talking, lost packets.

The tests need root on Linux, since they mount file systems and make network namespaces. Elsewhere
they are skipped with that reason; where CI is set they must run. ``python -m tests.faults NAME
--times N`` repeats one of the slow faults and prints what became of the jobs.
"""
