"""From a data set to a bundle: point-in-time examples, two Lightning tasks, one experiment."""
