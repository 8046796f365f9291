"""What acts: the policy (a diffusers pipeline with LoRA adapters), its transitions, rollouts and sampler actor."""
