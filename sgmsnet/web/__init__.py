"""The page: what visitors see and the events behind it. Knows the Pipeline, never a concrete engine."""
