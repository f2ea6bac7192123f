"""Rules: what of the results is an event. Declared in the configuration, decided without I/O."""
