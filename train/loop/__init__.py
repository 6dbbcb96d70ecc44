"""What all trainings share: the loop, resuming, processes, precision, options."""
