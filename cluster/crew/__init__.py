"""Who does the work: actors and where they are, pools of them, the weights on their way, and Ray itself."""
