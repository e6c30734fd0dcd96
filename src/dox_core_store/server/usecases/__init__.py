"""The steps of each job, in order, against the ports."""
