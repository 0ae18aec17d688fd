"""The engine that serves as `t5x` where Google's is not installed."""
