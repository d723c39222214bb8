"""What each regularizer costs: the step's time and the stack's memory beside ``none``, measured interleaved."""
