"""Train one stack of K cells from its first step to its last.

Everything here has a leading axis K, and no step waits for the device. It never knows a results folder, a launcher or
the command line.
"""
