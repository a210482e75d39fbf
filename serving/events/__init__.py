"""The durable event log: what was shown and what came of it, from the gateway to online state and to training."""
