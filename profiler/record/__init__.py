"""Record: execute a plan, and nothing else. Events become rows of the recording."""
