"""Train stacks as tasks of a SLURM cluster, through submitit.

A task trains some stacks of the plan that is stored in the results folder, as ``launcher=local`` would on its node, and
writes to the tables there. Nothing else comes back from it: whatever SLURM says of a job, or submitit of its result,
the tables say what is finished.
"""
