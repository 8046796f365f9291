"""What improves the policy: objectives (one file an algorithm), the mathematics they share, and the central learner."""
