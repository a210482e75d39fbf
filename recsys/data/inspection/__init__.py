"""Look at files before training: propose their description, and find in a described log what a training would stumble over."""
