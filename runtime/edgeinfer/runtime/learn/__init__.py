"""What a device learns of its models: drift, hard examples, a candidate in shadow, explanations."""
