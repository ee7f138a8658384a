"""Sets that do not fit in memory: images are read, cut and resized by processes of their own.

What is read is a function of (seed, step, sample), so nothing in here is state of a run. All else
is done to a batch on the device, by the code of sets in memory.
"""
