"""Where batches come from: prompts to samplers, rollouts to rewards, in order and at their pace."""
