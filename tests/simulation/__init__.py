"""A deterministic simulation of kernels, hosts, a disk and a server, with the real storage code in it."""
